"""A U-Net with more residual blocks: the old function exactly, and new weights that learn."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_unet import answer, tiny_unet

from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.deepening import deepen
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.errors import UserError


def network(layers: int | tuple[int, ...]) -> UNet2DConditionModel:
    return tiny_unet((16, 32, 48), (False, True, False), layers)


@pytest.mark.parametrize(
    "before, layers",
    [(1, (2, 1, 1)), (1, (2, 3, 2)), (2, (3, 2, 4)), ((2, 1, 1), (2, 2, 1))],
)
def test_the_deeper_network_computes_the_same_and_all_of_it_learns(
    before: int | tuple[int, ...], layers: Sequence[int]
) -> None:
    shallow = network(before)
    deep = deepen(shallow, layers).requires_grad_(True)
    assert deep.config.layers_per_block == tuple(layers)
    assert sum(p.numel() for p in deep.parameters()) > sum(p.numel() for p in shallow.parameters())
    found = answer(deep)
    torch.testing.assert_close(found, answer(shallow), rtol=0, atol=1e-5)
    # One step later no new weight rests any more.
    optimizer = torch.optim.SGD(deep.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        answer(deep).square().mean().backward()
        optimizer.step()
    assert [name for name, p in deep.named_parameters() if not p.grad.abs().sum()] == []


@pytest.mark.parametrize("layers", [(2, 2), (1, 1, 1), (0, 2, 1), (2, 1, 1, 1)])
def test_numbers_that_cannot_be_are_named(layers: Sequence[int]) -> None:
    with pytest.raises(
        UserError, match=r"deepen \[.*expected 3 numbers of blocks, no smaller than \[1, 1, 1\]"
    ):
        deepen(network(1), layers)


def test_a_recipe_deepens_its_base_and_resumes(tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path) -> None:
    levels = len(load_checkpoint(tiny_checkpoint, "cpu", "float32").unet.config.block_out_channels)
    recipe = load_recipe("unet_smoke", {"deepen": [2] + [1] * (levels - 1)})
    how = {"model": str(tiny_checkpoint)}
    for steps, out in ((3, "cut"), (8, "cut"), (8, "whole")):
        execution = Execution(device="cpu", precision="float32", save_every=3, max_steps=steps)
        list(adapt(recipe, [RealRadiographs(tiny_nih)], tmp_path / out, execution=execution, **how))
    cut, whole = (load_checkpoint(tmp_path / name, "cpu", "float32") for name in ("cut", "whole"))
    assert cut.unet.config.layers_per_block[0] == 2
    assert all(torch.equal(a, b) for a, b in zip(cut.unet.parameters(), whole.unet.parameters(), strict=True))
