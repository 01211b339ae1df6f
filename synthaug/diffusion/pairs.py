"""Pairs of films, without and with a finding, that differ in one region only.

The member without is drawn from a seed, or is a given film. What moves it at each step is kept: its course. The first
steps, `1 - strength` of them, belong to both members and fix the anatomy: a strength that shares those too in which large
opacities are decided inserts nothing large. From then on the member with moves by

    v = v_course + mask (v_with(z) - v_without(z_course))

which is the course where the mask is 0 or the prompts agree. A drawn member's course is v_without itself. A given film's is the
prediction that leads back to it. By inversion and img2img, what the network would change about that film anyway cancels
(differences of prompts: FlowEdit, Kulikov et al. 2024, arXiv:2412.08629). By inpainting it moves by v_with alone where the mask
is 1, beside the film that it sees around it (blended latents: Avrahami et al. 2023, arXiv:2206.02779):

    v = v_course + mask (v_with(z) - v_course)


The mask is a zone of the chest, a given one, or where the films of the prompts differ most (`synthaug.diffusion.region`). For the
last the member with is first drawn with the mask 1 everywhere, then once more, so that the finding grows into the anatomy
around it. A decoder looks further than one latent; in pixels the change is therefore added to the member without, under a
mask that is soft at its edge:

    present = without + soft (decode(z_with) - decode(z_without))

Outside of the mask both are equal to the grey level, and a given film keeps what the autoencoder would lose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.inversion import encode, invert, known_prediction
from synthaug.diffusion.noise import generator, noise
from synthaug.diffusion.region import Region, changed_region, given_mask, soft_mask, zone_mask
from synthaug.diffusion.sampler import blended, decode, embed, guide, predict, step_noise
from synthaug.diffusion.schedule import make_scheduler, quiet_numpy
from synthaug.diffusion.settings import Settings
from synthaug.errors import UserError

Method = Literal["inpaint", "img2img", "inversion"]
Prediction = Callable[[Any, Tensor, int], Tensor]


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
    negative_prompts: Sequence[tuple[str, str]] | None = None,
    region: Region | None = None,
    guidance_without: float | None = None,
) -> Pairs:
    """Draw one pair a seed.

    Args:
        without, present: B prompts each.
        seeds: B pairs (recipe seed, index), all that the noise depends on.
        settings: from `resolve`.
        negative_prompts: B pairs, what the members without and with are led away from; "" when None.
        guidance_without: guidance scale of the member without; that of the settings when None.

    Raises:
        UserError: lengths that differ, or a mask of another size.
    """
    walker = _Walker(checkpoint, settings, seeds, negative_prompts, without, present)
    start = walker.noise() * walker.scheduler().init_noise_sigma
    end, course = walker.walk(start, walker.following(walker.without, guidance_without))
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
        method: "inversion" starts from the noise that DDIM inversion finds, "img2img" and "inpaint" from noise of the seed.

    Raises:
        UserError: lengths or sizes that differ, or an unknown method.
    """
    size = settings.image_size
    if films.shape != (len(seeds), 1, size, size):
        raise UserError(
            f"found films {films.shape} for {len(seeds)} seeds, expected {(len(seeds), 1, size, size)}"
        )
    if method not in get_args(Method):
        raise UserError(f"--method {method}: expected {', '.join(get_args(Method))}")
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
    rival = course
    if method != "inpaint":
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
        generators = [generator(seed, index, "steps") for seed, index in self.seeds]
        with quiet_numpy():
            for step, time in enumerate(scheduler.timesteps):
                moved_by = prediction(scheduler, scheduler.scale_model_input(latents, time), step)
                extra = step_noise(scheduler, latents, self.settings, generators)
                latents = scheduler.step(moved_by, time, latents, return_dict=False, **extra)[0]
                course.append(moved_by)
        return latents, course

    def following(self, texts: Texts, guidance_scale: float | None = None) -> Prediction:
        """The network's prediction, guided toward a text, by the settings' scale when None."""
        settings = self.settings
        if guidance_scale is not None:
            settings = replace(settings, guidance_scale=guidance_scale)

        def guided(scheduler: Any, scaled: Tensor, step: int) -> Tensor:
            time = scheduler.timesteps[step]
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
            rival: what v_with is compared with, step by step; that of the shared steps is not looked at.
            films: the members without; `decoded`: what their latents decode to.
        """
        scale, size = self.checkpoint.scale_factor, self.settings.image_size
        if region.mask is not None:
            mask = given_mask(region, scale, size).to(start).expand(len(start), -1, -1, -1)
        elif region.zone is not None:
            mask = zone_mask(region, size // scale).to(start).expand(len(start), -1, -1, -1)
        else:
            free, _ = self.walk(start, self.parting(course, rival, region))
            apart = np.abs(decode(self.checkpoint, free).astype(np.float32) - decoded)
            mask = changed_region(avg_pool2d(torch.from_numpy(apart), scale), region).to(start)
        latents, _ = self.walk(start, self.parting(course, rival, region, mask))
        soft = soft_mask(mask, region, size)
        change = decode(self.checkpoint, latents).astype(np.float32) - decoded
        present = np.clip(np.rint(films + soft * change), 0, 255).astype(np.uint8)
        return Pairs(films, present, np.ceil(soft * 255).astype(np.uint8))
