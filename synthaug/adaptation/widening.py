"""More channels at a U-Net's finest level, so that a trained one can learn detail that it had no room for.

After Net2WiderNet (Chen, Goodfellow and Shlens 2016, arXiv:1511.05641): a new channel is the copy of an old one, its incoming
weights perturbed so that the two can part, and its outgoing weights near zero so that the function hardly changes. Copies stay
in the group of their original, which keeps the statistics of group norm nearly as they were. The width of the time embedding
stays; its sinusoids of other frequencies are new.
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from synthaug.errors import UserError

APART = 0.7  # of a copy's incoming weights, in standard deviations of the layer's
QUIET = 0.05  # of its outgoing weights


@torch.no_grad()
def widen(unet: UNet2DConditionModel, width: int, seed: int = 0) -> UNet2DConditionModel:
    """A U-Net with `width` channels at its first level in place of those it has, and nearly the same function, float32.

    Raises:
        UserError: a width that is not larger, that its groups do not divide, or that the second level has already.
    """
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    widths, groups = list(config["block_out_channels"]), config["norm_num_groups"]
    before = widths[0]
    if width <= before or width % groups or width == widths[1]:
        raise UserError(
            f"widen {width}: expected a multiple of {groups} (its groups) beyond {before}, and other than the second "
            f"level's {widths[1]}"
        )
    config |= {"block_out_channels": (width, *widths[1:])}
    config["time_embedding_dim"] = unet.time_embedding.linear_2.out_features
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wide = UNet2DConditionModel(**config)
        origin, copied = _origins(before, width, groups)
        old, new = unet.state_dict(), wide.state_dict()
        for name, fresh in new.items():
            was = old[name].float()
            if name == "time_embedding.linear_1.weight":
                was = _frequencies(was, fresh.shape[1])
            elif was.shape != fresh.shape:
                was = _rows(was, fresh.shape[0], before, origin, copied)
                if was.ndim > 1:
                    was = _columns(was, fresh.shape[1], before, origin, copied)
            new[name] = was
        wide.load_state_dict(new)
    return wide.eval().requires_grad_(False)


def _origins(before: int, width: int, groups: int) -> tuple[Tensor, Tensor]:
    """For each new channel its old one, and whether it is a further copy; group by group."""
    own, more = before // groups, width // groups
    times = [more // own + (channel < more % own) for channel in range(own)]
    origin, copied = [], []
    for group in range(groups):
        turned = [times[(channel + group) % own] for channel in range(own)]  # every channel has its turn
        for channel, count in enumerate(turned):
            origin += [group * own + channel] * count
            copied += [False] + [True] * (count - 1)
    return torch.tensor(origin), torch.tensor(copied)


def _places(size: int, wanted: int, before: int, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Old indices of the new entries along an axis, and which of them come from a widened part.

    An axis is the first level's channels, those behind a deeper level's (a skip), or twice the first level's.
    """
    if size == wanted:
        return torch.arange(size), torch.zeros(size, dtype=torch.bool)
    parts = (wanted - size) // (len(origin) - before)
    kept = size - parts * before
    index = [torch.arange(kept), *(kept + part * before + origin for part in range(parts))]
    return torch.cat(index), torch.arange(wanted) >= kept


def _rows(weight: Tensor, wanted: int, before: int, origin: Tensor, copied: Tensor) -> Tensor:
    """Outgoing channels; the incoming weights of copies are perturbed."""
    index, widened = _places(len(weight), wanted, before, origin)
    out = weight[index].clone()
    if weight.ndim > 1 and widened.any():
        rows = widened.clone()
        rows[widened] = copied.repeat(int(widened.sum()) // len(copied))
        out[rows] += APART * weight.std() * torch.randn_like(out[rows])
    return out


def _columns(weight: Tensor, wanted: int, before: int, origin: Tensor, copied: Tensor) -> Tensor:
    """Incoming channels; what comes from a copy is nearly left out."""
    index, widened = _places(weight.shape[1], wanted, before, origin)
    out = weight[:, index].clone()
    if widened.any():
        columns = widened.clone()
        columns[widened] = copied.repeat(int(widened.sum()) // len(copied))
        out[:, columns] = QUIET * weight.std() * torch.randn_like(out[:, columns])
    return out


def _frequencies(weight: Tensor, wanted: int) -> Tensor:
    """The first layer of the time embedding on more sinusoids: those nearest to the old ones carry its weights."""
    before = weight.shape[1] // 2
    out: Any = torch.zeros(len(weight), wanted)
    for half in range(2):
        for number in range(before):
            nearest = round(number * (wanted // 2) / before)
            out[:, half * (wanted // 2) + nearest] += weight[:, half * before + number]
    return out
