"""Where the two members of a pair may differ: a zone of the chest, a given mask, or where their prompts' films differ most.

A zone is for findings that lie where anatomy or gravity puts them. Free fluid in the pleural space of an upright chest gathers
at the bases: what prompts differ in is then less telling, since a film with an effusion also differs in its exposure, its arms
and its outline. A zone fades out toward the film's middle and edges, so that what is drawn inside has no edge of its own.

Without a zone the place is measured on decoded films, not on early predictions. The absolute difference d of two films, averaged
over a neighbourhood, chooses

    mask = d >= threshold max(d), at most `area` of the film, then grown by one latent

(a mask from the difference of two prompts: DiffEdit, Couairon et al. 2022, arXiv:2210.11427).

A frontal film shows the patient's left at its right.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from synthaug.errors import UserError

SMOOTH = 3  # latents that a difference is averaged over

Side = Literal["left", "right"]
Zone = Literal["lower", "upper"]

# In shares of the film: the heights where a zone begins and is whole, the width of a side, and what either fades over.
HEIGHTS: dict[str, tuple[float, float]] = {"lower": (0.25, 0.47), "upper": (0.75, 0.53)}
WIDTHS: dict[str | None, tuple[float, float]] = {None: (0, 1), "left": (0.5, 1), "right": (0, 0.5)}
AT_EDGE, AT_MIDLINE = 0.16, 0.06


@dataclass(frozen=True)
class Region:
    """How far the members may part, and where.

    Args:
        strength: share of the sampler's steps in which they may part; the others fix the anatomy.
        threshold: share of the largest difference from which on a place is changed.
        area: share of the film that the mask covers at most, before it is grown by one latent.
        side: the patient's side that alone may change, or None.
        zone: the part of the film that may change, in place of the difference's; or None.
        mask: uint8 or bool (H, W) of the image's size, not 0 where the film may change, in place of either.

    Raises:
        UserError: a share that is not one, another side, or a mask that leaves nothing; the flag is named.
    """

    strength: float = 0.9
    threshold: float = 0.5
    area: float = 0.4
    side: Side | None = None
    zone: Zone | None = None
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(
                f"--strength {self.strength:g}: expected a share of the steps, above 0 and at most 1"
            )
        if not 0 < self.threshold <= 1:
            raise UserError(f"--threshold {self.threshold:g}: expected a share, above 0 and at most 1")
        if not 0 < self.area <= 1:
            raise UserError(f"--area {self.area:g}: expected a share of the film, above 0 and at most 1")
        if self.side not in (None, "left", "right"):
            raise UserError(f"--side {self.side}: expected left or right, of the patient")
        if self.zone is not None and self.zone not in HEIGHTS:
            raise UserError(f"--zone {self.zone}: expected {' or '.join(HEIGHTS)}, or any")
        if self.mask is not None and not self.mask.any():
            raise UserError("--mask: found no pixel above 0, expected those that may change")

    def shared(self, steps: int) -> int:
        """How many of the steps both members share; the last one never."""
        return min(steps - 1, round((1 - self.strength) * steps))


def changed_region(difference: Tensor, region: Region) -> Tensor:
    """Where a difference (B, 1, h, w) is large: 0 or 1, the same shape, by the rule of the module's docstring."""
    smooth = avg_pool2d(difference, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    allowed = _half(region, smooth.shape[-1]).to(smooth)
    smooth = smooth * allowed
    most = smooth.amax((1, 2, 3), keepdim=True)
    level = smooth.flatten(1).quantile(1 - region.area, dim=1)[:, None, None, None]
    chosen = (smooth >= region.threshold * most) & (smooth >= level) & (smooth > 0)
    return max_pool2d(chosen.float(), 3, 1, 1) * allowed


def zone_mask(region: Region, size: int) -> Tensor:
    """How far each place of the zone, and of the side, may change: 0 ... 1, (1, 1, size, size), in latents or in pixels.

    Raises:
        ValueError: the region has no zone.
    """
    if region.zone is None:
        raise ValueError("the region has no zone")
    centres = (torch.arange(size) + 0.5) / size
    begins, whole = HEIGHTS[region.zone]
    rows = _smooth((centres - begins) / (whole - begins))
    left, right = WIDTHS[region.side]
    columns = torch.minimum(
        (centres - left) / (AT_EDGE if left == 0 else AT_MIDLINE),
        (right - centres) / (AT_EDGE if right == 1 else AT_MIDLINE),
    )
    return (rows[:, None] * _smooth(columns))[None, None]


def _smooth(share: Tensor) -> Tensor:
    """0 below 0, 1 above 1, without a kink between."""
    share = share.clamp(0, 1)
    return share * share * (3 - 2 * share)


def given_mask(region: Region, scale: int, size: int) -> Tensor:
    """The given mask as latents (1, 1, h, w): 1 where any of a latent's pixels may change.

    Raises:
        UserError: it has another size.
    """
    given = np.zeros((0, 0)) if region.mask is None else region.mask
    if given.shape != (size, size):
        raise UserError(f"--mask: found {given.shape}, expected {(size, size)}")
    latents = max_pool2d(torch.from_numpy(given > 0).float()[None, None], scale)
    return latents * _half(region, latents.shape[-1])


def soft_mask(mask: Tensor, region: Region, size: int) -> np.ndarray:
    """The mask (B, 1, h, w) in pixels, 0 ... 1: it fades over a latent inside its edge, and inside a given mask's and side's.

    A zone fades as wide as it does in latents.

    Raises:
        UserError: a given mask is too thin to hold anything.
    """
    if region.mask is None and region.zone is not None:
        return zone_mask(region, size).expand(len(mask), -1, -1, -1).numpy()
    scale = size // mask.shape[-1]
    hard = interpolate(mask, size=(size, size), mode="nearest") * _half(region, size).to(mask)
    if region.mask is not None:
        hard = hard * torch.from_numpy(region.mask > 0).to(mask)
    # Along a straight edge half of the neighbours lie inside, a neighbourhood further in all of them.
    inside = avg_pool2d(hard, 2 * scale + 1, 1, scale, count_include_pad=False)
    soft = (2 * inside - 1).clamp(min=0) * hard
    if region.mask is not None and not soft.any():
        raise UserError(f"--mask: nothing is as wide as {scale} pixels of {size}; give a larger region")
    return soft.cpu().numpy()


def _half(region: Region, width: int) -> Tensor:
    """1 where the side may change, (width,)."""
    columns = torch.arange(width)
    if region.side is None:
        return torch.ones(width)
    return (columns >= width / 2 if region.side == "left" else columns < width / 2).float()
