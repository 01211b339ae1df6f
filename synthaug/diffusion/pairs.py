"""Pairs of films, without and with a finding, that differ in one region only.

The member without is drawn from a seed, or is a given film. What moves it at each step is kept: its course. The first
steps, `1 - strength` of them, belong to both members and fix the anatomy. Large opacities are decided in the first two or
three of twenty steps: a strength that shares these too inserts nothing large. From then on the member with moves by

    v = v_course + mask (v_with(z) - v_without(z_course))

which is the course where the mask is 0 or the prompts agree. A drawn member's course is v_without itself; a given film's is
the prediction that leads back to it, and what the network would change about the film anyway cancels (differences of
prompts: FlowEdit, Kulikov et al. 2024, arXiv:2412.08629; blended latents: Avrahami et al. 2023, arXiv:2206.02779).

Where the members may differ is measured on decoded films, not on early predictions. The member with is first drawn with the
mask 1 everywhere; the absolute difference d of the two films, averaged over a neighbourhood, chooses

    mask = d >= threshold max(d), at most `area` of the film, then grown by one latent

unless a mask is given (a mask from the difference of two prompts: DiffEdit, Couairon et al. 2022, arXiv:2210.11427). `side`
keeps it on the patient's left or right, whose left is at the image's right. Then the member with is drawn once more, so that
the finding grows into the anatomy around it. A decoder looks further than one latent; in pixels the change is therefore
added to the member without, under a mask that is soft at its inner edge:

    present = without + soft (decode(z_with) - decode(z_without))

Outside of the mask both are equal to the grey level, and a given film keeps what the autoencoder would lose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.inversion import encode, invert, known_prediction
from synthaug.diffusion.noise import generator, noise
from synthaug.diffusion.sampler import blended, decode, embed, guide, predict
from synthaug.diffusion.schedule import make_scheduler, quiet_numpy, takes_generator
from synthaug.diffusion.settings import Settings
from synthaug.errors import UserError

SMOOTH = 3  # latents that a difference is averaged over

Side = Literal["left", "right"]
Method = Literal["img2img", "inversion"]
Prediction = Callable[[Any, Tensor, int], Tensor]


@dataclass(frozen=True)
class Pairs:
    """`without` and `present`: uint8 (B, 1, H, W); `mask`: uint8 (B, 1, H, W), 0 where both are equal, 255 at most."""

    without: np.ndarray
    present: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Region:
    """How far the members may part, and where.

    Args:
        strength: share of the sampler's steps in which they may part; the others fix the anatomy.
        threshold: share of the largest difference from which on a place is changed.
        area: share of the film that the mask covers at most, before it is grown by one latent.
        side: the patient's side that alone may change, or None.
        mask: uint8 or bool (H, W) of the image's size, not 0 where the film may change, in place of the difference's.

    Raises:
        UserError: a share that is not one, another side, or a mask that leaves nothing; the flag is named.
    """

    strength: float = 0.9
    threshold: float = 0.5
    area: float = 0.4
    side: Side | None = None
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
        if self.mask is not None and not self.mask.any():
            raise UserError("--mask: found no pixel above 0, expected those that may change")

    def shared(self, steps: int) -> int:
        """How many of the steps both members share; the last one never."""
        return min(steps - 1, round((1 - self.strength) * steps))


@torch.inference_mode()
def sample_pairs(
    checkpoint: Checkpoint,
    without: Sequence[str],
    present: Sequence[str],
    seeds: Sequence[tuple[int, int]],
    settings: Settings,
    negative_prompts: Sequence[tuple[str, str]] | None = None,
    region: Region | None = None,
) -> Pairs:
    """Draw one pair a seed.

    Args:
        without, present: B prompts each.
        seeds: B pairs (recipe seed, index), all that the noise depends on.
        settings: from `resolve`.
        negative_prompts: B pairs, what the members without and with are led away from; "" when None.

    Raises:
        UserError: lengths that differ, or a mask of another size.
    """
    walker = _Walker(checkpoint, settings, seeds, negative_prompts, without, present)
    start = walker.noise() * walker.scheduler().init_noise_sigma
    end, course = walker.walk(start, walker.following(walker.without))
    films = decode(checkpoint, end)
    return walker.insert(start, course, course, films, films, region or Region())


@torch.inference_mode()
def change_films(
    checkpoint: Checkpoint,
    films: np.ndarray,
    without: Sequence[str],
    present: Sequence[str],
    seeds: Sequence[tuple[int, int]],
    settings: Settings,
    negative_prompts: Sequence[tuple[str, str]] | None = None,
    region: Region | None = None,
    method: Method = "inversion",
) -> Pairs:
    """Insert into given films, which are the members without.

    Args:
        films: uint8 (B, 1, H, W), H = W = `settings.image_size`.
        without, present, negative_prompts: as of `sample_pairs`; `without` says what the films show.
        method: "inversion" starts from the noise that DDIM inversion finds, "img2img" from noise of the seed.

    Raises:
        UserError: lengths or sizes that differ, or an unknown method.
    """
    size = settings.image_size
    if films.shape != (len(seeds), 1, size, size):
        raise UserError(
            f"found films {films.shape} for {len(seeds)} seeds, expected {(len(seeds), 1, size, size)}"
        )
    if method not in ("img2img", "inversion"):
        raise UserError(f"--method {method}: expected img2img or inversion")
    region = region or Region()
    walker = _Walker(checkpoint, settings, seeds, negative_prompts, without, present)
    latents, scheduler = encode(checkpoint, films), walker.scheduler()
    if method == "inversion":
        steps = settings.num_inference_steps
        drawn = invert(checkpoint, latents, walker.without.toward, settings, steps - region.shared(steps))
    else:
        drawn = walker.noise()
    with quiet_numpy():
        times = scheduler.timesteps[:1].expand(len(seeds))
        start = scheduler.add_noise(latents, drawn, times)
    guided, shared, states = walker.following(walker.without), region.shared(len(scheduler.timesteps)), []

    def known(used: Any, scaled: Tensor, step: int) -> Tensor:
        states.append(scaled)
        return known_prediction(used, scaled, latents, step)

    _, course = walker.walk(start, known)
    rival = [guided(scheduler, z, step) if step >= shared else z for step, z in enumerate(states)]
    return walker.insert(start, course, rival, films, decode(checkpoint, latents), region)


class Texts(NamedTuple):
    """Embeddings (B, tokens, width) of what one member of each pair is led toward, and away from."""

    toward: Tensor
    away: Tensor


class _Walker:
    """One batch: its prompts and seeds, and ways along the scheduler's steps."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Settings,
        seeds: Sequence[tuple[int, int]],
        negative_prompts: Sequence[tuple[str, str]] | None,
        without: Sequence[str],
        present: Sequence[str],
    ) -> None:
        if not len(without) == len(present) == len(seeds):
            raise UserError(
                f"found {len(without)} and {len(present)} prompts, {len(seeds)} seeds; expected as many of each"
            )
        self.checkpoint, self.settings, self.seeds = checkpoint, settings, seeds
        away = list(zip(*(negative_prompts or [("", "")] * len(seeds)), strict=True))
        self.without, self.present = (
            Texts(embed(checkpoint, own), blended(checkpoint, negative))
            for own, negative in zip((without, present), away, strict=True)
        )

    def noise(self) -> Tensor:
        """Of the seeds, (B, C, h, w)."""
        side = self.settings.image_size // self.checkpoint.scale_factor
        shape = (self.checkpoint.unet.config.in_channels, side, side)
        drawn = torch.stack([noise(seed, index, shape) for seed, index in self.seeds])
        return drawn.to(self.checkpoint.device)

    def scheduler(self) -> Any:
        """A fresh one, its timesteps set."""
        scheduler = make_scheduler(self.checkpoint.scheduler_config, self.settings.scheduler)
        with quiet_numpy():
            scheduler.set_timesteps(self.settings.num_inference_steps, device=self.checkpoint.device)
        return scheduler

    def walk(self, latents: Tensor, prediction: Prediction) -> tuple[Tensor, list[Tensor]]:
        """Latents at the end, and the prediction of every step; all walks of a batch share the noise of their steps."""
        scheduler, course = self.scheduler(), []
        extra: dict[str, Any] = {}
        if takes_generator(scheduler):
            extra["generator"] = [generator(seed, index, "steps") for seed, index in self.seeds]
        with quiet_numpy():
            for step, time in enumerate(scheduler.timesteps):
                moved_by = prediction(scheduler, scheduler.scale_model_input(latents, time), step)
                latents = scheduler.step(moved_by, time, latents, return_dict=False, **extra)[0]
                course.append(moved_by)
        return latents, course

    def following(self, texts: Texts) -> Prediction:
        """The network's prediction, guided toward a text."""

        def guided(scheduler: Any, scaled: Tensor, step: int) -> Tensor:
            time, settings = scheduler.timesteps[step], self.settings
            if not settings.guided(step, len(scheduler.timesteps)):
                return predict(self.checkpoint, scaled, time, texts.toward).float()
            both = torch.cat([texts.away, texts.toward])
            pair = predict(self.checkpoint, torch.cat([scaled, scaled]), time, both).float()
            away, toward = pair.chunk(2)
            return guide(toward, away, settings)

        return guided

    def parting(
        self, course: list[Tensor], rival: list[Tensor], region: Region, mask: Tensor | float = 1.0
    ) -> Prediction:
        """On the course for the shared steps, then off it by what the prompts differ in, inside the mask."""
        guided, shared = self.following(self.present), region.shared(len(course))

        def blended(scheduler: Any, scaled: Tensor, step: int) -> Tensor:
            if step < shared:
                return course[step]
            return course[step] + mask * (guided(scheduler, scaled, step) - rival[step])

        return blended

    def insert(
        self,
        start: Tensor,
        course: list[Tensor],
        rival: list[Tensor],
        films: np.ndarray,
        decoded: np.ndarray,
        region: Region,
    ) -> Pairs:
        """The pair, from the course of the member without.

        Args:
            rival: v_without on the course; that of the shared steps is not looked at.
            films: the members without; `decoded`: what their latents decode to.
        """
        if region.mask is not None:
            mask = given_mask(region, self.checkpoint.scale_factor, self.settings.image_size).to(start)
            mask = mask.expand(len(start), -1, -1, -1)
        else:
            free, _ = self.walk(start, self.parting(course, rival, region))
            apart = np.abs(decode(self.checkpoint, free).astype(np.float32) - decoded)
            cells = avg_pool2d(torch.from_numpy(apart), self.checkpoint.scale_factor)
            mask = changed_region(cells, region).to(start)
        latents, _ = self.walk(start, self.parting(course, rival, region, mask))
        soft = soft_mask(mask, region, self.settings.image_size)
        change = decode(self.checkpoint, latents).astype(np.float32) - decoded
        present = np.clip(np.rint(films + soft * change), 0, 255).astype(np.uint8)
        return Pairs(films, present, np.ceil(soft * 255).astype(np.uint8))


def changed_region(difference: Tensor, region: Region) -> Tensor:
    """Where a difference (B, 1, h, w) is large: 0 or 1, the same shape, by the rule of the module's docstring."""
    smooth = avg_pool2d(difference, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    allowed = _half(region, smooth.shape[-1]).to(smooth)
    smooth = smooth * allowed
    most = smooth.amax((1, 2, 3), keepdim=True)
    level = smooth.flatten(1).quantile(1 - region.area, dim=1)[:, None, None, None]
    chosen = (smooth >= region.threshold * most) & (smooth >= level) & (smooth > 0)
    return max_pool2d(chosen.float(), 3, 1, 1) * allowed


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

    Raises:
        UserError: a given mask is too thin to hold anything.
    """
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
    """1 where the side may change, (width,): a frontal film shows the patient's left at its right."""
    columns = torch.arange(width)
    if region.side is None:
        return torch.ones(width)
    return (columns >= width / 2 if region.side == "left" else columns < width / 2).float()
