"""Pairs from one seed, with and without a finding, that differ in one region only.

Both members start from the same noise. For the first steps, `1 - strength` of them, both follow the prompt without the finding,
which fixes the anatomy; what the prompt with the finding would predict there is compared (DiffEdit, Couairon et al. 2022,
arXiv:2210.11427), and the `area` of the latents in which the two differ most becomes the mask m, averaged over its
neighbours. From then on the member with the finding moves by

    v = m v_with(z) + (1 - m) v_without(z')        z' the latents of the member without

A scheduler's step treats every latent by itself, so where m is 0 both members stay equal. The decoder looks further than
one latent; in pixels the member with the finding is therefore laid over the other with the same mask, enlarged: outside
of it, both are equal to the grey level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.noise import generator, noise
from synthaug.diffusion.sampler import Settings, decode, embed, predict
from synthaug.diffusion.schedule import make_scheduler, quiet_numpy, takes_generator
from synthaug.errors import UserError

SMOOTH = 3  # latents that the difference is averaged over


@dataclass(frozen=True)
class Pairs:
    """`without` and `present`: uint8 (B, 1, H, W); `mask`: uint8 (B, 1, H, W), 0 where both are equal, 255 at most."""

    without: np.ndarray
    present: np.ndarray
    mask: np.ndarray


@torch.inference_mode()
def sample_pairs(
    checkpoint: Checkpoint,
    without: Sequence[str],
    present: Sequence[str],
    seeds: Sequence[tuple[int, int]],
    settings: Settings,
    negative_prompt: str = "",
    strength: float = 0.7,
    area: float = 0.25,
) -> Pairs:
    """Draw one pair a seed.

    Args:
        without, present: B prompts each.
        seeds: B pairs (recipe seed, index), all that the noise depends on.
        settings: from `resolve`.
        strength: share of the steps in which the members may part.
        area: share of the latents in the mask, before its edge is softened.

    Raises:
        UserError: lengths that differ, or a share that is not one.
    """
    if not len(without) == len(present) == len(seeds):
        raise UserError(
            f"found {len(without)} and {len(present)} prompts, {len(seeds)} seeds; expected as many of each"
        )
    check_shares(strength, area)
    side = settings.image_size // checkpoint.scale_factor
    shape = (checkpoint.unet.config.in_channels, side, side)
    plain = torch.stack([noise(seed, index, shape) for seed, index in seeds]).to(checkpoint.device)
    texts = {
        name: embed(checkpoint, prompts) for name, prompts in (("without", without), ("present", present))
    }
    negative = embed(checkpoint, [negative_prompt] * len(seeds))
    with quiet_numpy():
        plain, changed, mask = _denoise(checkpoint, plain, texts, negative, settings, seeds, strength, area)
    films = [decode(checkpoint, z) for z in (plain, changed)]
    soft = _in_pixels(mask, settings.image_size)
    laid = np.rint(soft * films[1] + (1 - soft) * films[0]).astype(np.uint8)
    return Pairs(films[0], laid, np.ceil(soft * 255).astype(np.uint8))


def check_shares(strength: float, area: float) -> None:
    """Refuse what is no share.

    Raises:
        UserError: the flag is named.
    """
    if not 0 < strength < 1:
        raise UserError(f"--strength {strength:g}: expected a share of the steps, between 0 and 1")
    if not 0 < area <= 1:
        raise UserError(f"--area {area:g}: expected a share of the film, above 0 and at most 1")


def _denoise(
    checkpoint: Checkpoint,
    latents: Tensor,
    texts: dict[str, Tensor],
    negative: Tensor,
    settings: Settings,
    seeds: Sequence[tuple[int, int]],
    strength: float,
    area: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents without, latents with, and the mask (B, 1, h, w) in 0 ... 1."""
    scheduler = make_scheduler(checkpoint.scheduler_config, settings.scheduler)
    scheduler.set_timesteps(settings.num_inference_steps, device=checkpoint.device)
    extra: dict[str, Any] = {}
    if takes_generator(scheduler):
        # Members of a pair share the noise of their steps too.
        extra["generator"] = [generator(seed, index, "steps") for _ in range(2) for seed, index in seeds]
    steps = len(scheduler.timesteps)
    shared = min(steps - 1, max(1, round((1 - strength) * steps)))
    plain = changed = latents * scheduler.init_noise_sigma
    difference = torch.zeros_like(plain[:, :1])
    mask = difference

    def guided(z: Tensor, text: Tensor, step: int, time: Tensor) -> Tensor:
        scaled = scheduler.scale_model_input(z, time)
        if not settings.guided(step, steps):
            return predict(checkpoint, scaled, time, text).float()
        both = predict(checkpoint, torch.cat([scaled, scaled]), time, torch.cat([negative, text])).float()
        away, toward = both.chunk(2)
        return away + settings.guidance_scale * (toward - away)

    for step, time in enumerate(scheduler.timesteps):
        v_without = guided(plain, texts["without"], step, time)
        v_present = guided(changed, texts["present"], step, time)
        if step < shared:
            difference = difference + (v_present - v_without).abs().mean(1, keepdim=True)
            if step == shared - 1:
                mask = region(difference, area)
            v_present = v_without
        else:
            v_present = mask * v_present + (1 - mask) * v_without
        moved = scheduler.step(
            torch.cat([v_without, v_present]), time, torch.cat([plain, changed]), return_dict=False, **extra
        )[0]
        plain, changed = moved.chunk(2)
    return plain, changed, mask


def region(difference: Tensor, area: float) -> Tensor:
    """The `area` of (B, 1, h, w) with the largest smoothed values as a mask in 0 ... 1 with a soft inner edge."""
    smooth = avg_pool2d(difference, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    level = smooth.flatten(1).quantile(1 - area, dim=1)[:, None, None, None]
    chosen = (smooth >= level).float()
    return avg_pool2d(chosen, SMOOTH, 1, SMOOTH // 2, count_include_pad=False) * chosen


def _in_pixels(mask: Tensor, size: int) -> np.ndarray:
    """The mask enlarged to pixels by one latent more, so that an edge of the finding is not cut."""
    wide = max_pool2d(mask.float(), 3, 1, 1)
    return interpolate(wide, size=(size, size), mode="bilinear", align_corners=False).cpu().numpy()
