"""More residual blocks in a U-Net's levels, so that a trained one can learn on with more depth from where it stands.

After Net2DeeperNet (Chen, Goodfellow and Shlens 2016, arXiv:1511.05641): a new block is the identity, its last convolution (and
the last projection of its attention) zero, so the deeper network computes the same function. On the way down new blocks come last
in their level; on the way up they come second, where they read the new skips and pass on what the block before gives them.
"""

from collections.abc import Iterator, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from synthaug.errors import UserError

MODULES = ("resnets", "attentions")


@torch.no_grad()
def deepen(unet: UNet2DConditionModel, layers: Sequence[int], seed: int = 0) -> UNet2DConditionModel:
    """A U-Net with `layers` residual blocks at each level on the way down, one more on the way up; the same function, float32.

    Args:
        layers: of each level, finest first.
        seed: of the weights that are not zero.

    Raises:
        UserError: other levels than the U-Net's, fewer blocks than it has, or none more.
    """
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    before = _each(config["layers_per_block"], len(unet.down_blocks))
    if len(layers) != len(before) or tuple(layers) == before or any(map(int.__lt__, layers, before)):
        raise UserError(
            f"deepen {list(layers)}: expected {len(before)} numbers of blocks, no smaller than {list(before)} and one larger"
        )
    config["layers_per_block"] = tuple(layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        deep = UNet2DConditionModel(**config)
    taken = dict(deep.state_dict())
    for name, new in _places(before, layers):
        taken |= {key: value.float() for key, value in _renamed(unet.state_dict(), name, new).items()}
    kept = ("down_blocks.", "up_blocks.")
    others = {key: value.float() for key, value in unet.state_dict().items() if not key.startswith(kept)}
    samplers = {key: value.float() for key, value in unet.state_dict().items() if "samplers." in key}
    deep.load_state_dict(taken | others | samplers)
    for block, first, count in _added(deep, before, layers):
        for number in range(first, first + count):
            _silence(block, number)
    return deep.eval().requires_grad_(False)


def _each(layers: int | Sequence[int], levels: int) -> tuple[int, ...]:
    return (layers,) * levels if isinstance(layers, int) else tuple(layers)


def _places(before: Sequence[int], layers: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Where each old residual block, with its attention, stood, and where it stands now."""
    for level, (old, new) in enumerate(zip(before, layers, strict=True)):
        up = len(before) - 1 - level
        for number in range(old):
            yield f"down_blocks.{level}.{{}}.{number}.", f"down_blocks.{level}.{{}}.{number}."
        for number in range(old + 1):
            moved = number + (new - old if number else 0)
            yield f"up_blocks.{up}.{{}}.{number}.", f"up_blocks.{up}.{{}}.{moved}."


def _renamed(weights: dict[str, Tensor], name: str, new: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for module in MODULES:
        start, to = name.format(module), new.format(module)
        found |= {
            to + key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)
        }
    return found


def _added(
    unet: UNet2DConditionModel, before: Sequence[int], layers: Sequence[int]
) -> Iterator[tuple[nn.Module, int, int]]:
    """Each block, the number of its first new part and how many are new."""
    for level, (old, new) in enumerate(zip(before, layers, strict=True)):
        yield unet.down_blocks[level], old, new - old
        yield unet.up_blocks[len(before) - 1 - level], 1, new - old


def _silence(block: nn.Module, number: int) -> None:
    """Make one residual block, and its attention, pass on what comes from the block before."""
    resnet = block.resnets[number]
    nn.init.zeros_(resnet.conv2.weight)
    nn.init.zeros_(resnet.conv2.bias)
    if (
        resnet.conv_shortcut is not None
    ):  # on the way up: the first half of what it reads, the rest is the skip
        weight = resnet.conv_shortcut.weight
        weight.zero_()
        weight[:, : len(weight), 0, 0] = torch.eye(len(weight))
        nn.init.zeros_(resnet.conv_shortcut.bias)
    if hasattr(block, "attentions"):
        nn.init.zeros_(block.attentions[number].proj_out.weight)
        nn.init.zeros_(block.attentions[number].proj_out.bias)
