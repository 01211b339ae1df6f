"""A given film in the sampler: its latents, the noise that it could have come from, and the prediction that leads back to it.

Latents z of a film at noise level (alpha, sigma), alpha² + sigma² = 1, are alpha z0 + sigma e. With z0 known, the prediction
that is right at any z on that path needs no network:

    e = (z - alpha z0) / sigma,    v = alpha e - sigma z0

Deterministic solvers that follow it end at z0 from every noise e. DDIM inversion (Song et al. 2021, arXiv:2010.02502) finds
the e from which the network itself would draw nearly this film.
"""

from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor

from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.sampler import predict
from synthaug.diffusion.schedule import quiet_numpy
from synthaug.diffusion.settings import Settings


@torch.inference_mode()
def encode(checkpoint: Checkpoint, images: np.ndarray) -> Tensor:
    """Images uint8 (B, 1, H, W) -> latents (B, C, h, w) float32, the mean of the posterior; H and W multiples of the factor."""
    config = checkpoint.vae.config
    pixels = torch.from_numpy(images).to(checkpoint.device).float() / 127.5 - 1
    pixels = pixels.expand(-1, config.in_channels, -1, -1)
    pixels = pixels.to(checkpoint.dtype, memory_format=torch.channels_last)
    parts = [checkpoint.vae.encode(part).latent_dist.mean.float() for part in pixels.split(1)]
    return (torch.cat(parts) - (config.shift_factor or 0.0)) * config.scaling_factor


@torch.inference_mode()
def invert(checkpoint: Checkpoint, latents: Tensor, text: Tensor, settings: Settings, steps: int) -> Tensor:
    """The noise (B, C, h, w) of films, by `steps` of DDIM's steps upward, without guidance.

    Args:
        latents: z0, of `encode`.
        text: embeddings of what the films show, (B, tokens, width).
        settings: their `num_inference_steps` is how finely the path is cut.
        steps: how many of these steps, from the clean end, are walked; at most all.
    """
    config = dict(checkpoint.scheduler_config)
    spacing = config.get("timestep_spacing")
    config["timestep_spacing"] = spacing if spacing in ("leading", "trailing") else "leading"
    with quiet_numpy():
        scheduler = DDIMInverseScheduler.from_config(config, clip_sample=False)
        scheduler.set_timesteps(settings.num_inference_steps, device=checkpoint.device)
        z = latents
        for time in scheduler.timesteps[:steps]:
            z = scheduler.step(predict(checkpoint, z, time, text).float(), time, z, return_dict=False)[0]
    level = scheduler.alphas_cumprod.to(z.device)[time]
    return (z - level.sqrt() * latents) / (1 - level).sqrt()


def known_prediction(scheduler: Any, scaled: Tensor, latents: Tensor, step: int) -> Tensor:
    """What a network that knew the film would predict, in the terms that the scheduler was made for.

    Args:
        scheduler: with its timesteps set.
        scaled: the noisy latents as the network sees them (`scale_model_input`).
        latents: z0.
        step: of the scheduler's timesteps.
    """
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return latents
    time = scheduler.timesteps[step]
    # Schedulers that count in sigmas may stop between two timesteps; the others are exactly on one.
    if getattr(scheduler, "sigmas", None) is not None:
        alpha = 1 / (scheduler.sigmas[step].to(scaled.device, torch.float64) ** 2 + 1).sqrt()
    else:
        alpha = scheduler.alphas_cumprod.to(scaled.device, torch.float64)[time.long()].sqrt()
    sigma = (1 - alpha**2).sqrt()
    noise = ((scaled - alpha * latents) / sigma).float()
    return noise if kind == "epsilon" else (alpha * noise - sigma * latents).float()
