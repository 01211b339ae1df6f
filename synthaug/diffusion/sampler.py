"""Prompts and seeds -> images: text embeddings, guided denoising of latents, decoding.

Latents are (B, C, H / f, W / f), f = `Checkpoint.scale_factor`, kept in float32 between steps whatever the
precision of the weights; images leave as uint8 (B, 1, H, W). Guidance (Ho and Salimans, arXiv:2207.12598)
with scale w turns two predictions, with the prompt and with the negative prompt, into

    v = v_negative + w (v_prompt - v_negative)

A scale of 1 is off. Parts of a negative prompt between " | " are averaged as embeddings: "chest radiograph, AP view | chest
radiograph" leads away from AP films and from any film, so guidance sharpens the view too, half as much as the rest. Guidance
may be limited to an interval of steps (Kynkäänniemi et al., arXiv:2404.07724): outside it only the prompt's own prediction is
computed, at half the cost. Strong guidance raises the contrast; a rescale of r gives the share r of each prediction the spread
that the prompt's own has (Lin et al. 2023, arXiv:2305.08891, section 3.4). What guidance changes in the mean of a latent channel
over the film is its brightness, which is no finding: `guidance_mean` is the share of it that is kept. A network that is less sure
than it should be draws with too little variance; `noise_scale` multiplies the noise that an "sde-" solver adds (S_noise of
Karras et al. 2022, arXiv:2206.00364). Coarse features of the U-Net may be kept for some steps (`feature_cache`).

Noise is a function of (seed, index). Images of one (seed, index, prompt) in batches of other sizes or
company differ by rounding alone: at most 2 grey levels in float32.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.feature_cache import cached_features
from synthaug.diffusion.noise import generator, noise
from synthaug.diffusion.schedule import AS_SAVED, make_scheduler, quiet_numpy, takes_generator
from synthaug.diffusion.settings import SCALED, Given, Settings, resolve
from synthaug.errors import UserError
from synthaug.prompts import BLEND, negative

KEPT_EMBEDDINGS = 4096


@torch.inference_mode()
def sample(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    seeds: Sequence[tuple[int, int]],
    *,
    negative_prompts: Sequence[str] | str | None = None,
    exact: bool = False,
    **given: Unpack[Given],
) -> np.ndarray:
    """Draw one image a prompt.

    Args:
        prompts: B texts.
        seeds: B pairs (recipe seed, index): all that the noise depends on.
        negative_prompts: what guidance leads away from; one for all or one each, parts between " | " averaged. None takes the
            checkpoint's.
        exact: the numbers of `StableDiffusionPipeline` from the same latents: guidance at every step, latents
            in the precision of the weights, and the scheduler that the checkpoint came with unless one is named.
        given: of `Settings`; None takes the checkpoint's. With a `feature_interval` coarse features of the U-Net are computed
            every so many steps.

    Returns:
        uint8 (B, 1, H, W).

    Raises:
        UserError: lengths that differ, or a setting that no sampler can work with.
    """
    negatives = [negative_prompts] * len(prompts) if isinstance(negative_prompts, str) else negative_prompts
    if negatives is None:
        negatives = [negative(checkpoint.card.negative_prompt)] * len(prompts)
    if not len(prompts) == len(seeds) == len(negatives):
        raise UserError(
            f"found {len(prompts)} prompts, {len(seeds)} seeds, {len(negatives)} negative prompts"
        )
    if exact:
        plain: Given = {
            "guidance_interval": (0.0, 1.0),
            "guidance_mean": 1.0,
            "noise_scale": 1.0,
            "feature_interval": 1,
        }
        named: Given = {
            "scheduler": given.get("scheduler") or AS_SAVED,
            "guidance_rescale": given.get("guidance_rescale") or 0.0,
        }
        given = {**given, **plain, **named}
    settings = resolve(checkpoint, **given)
    if not prompts:
        return np.zeros((0, 1, settings.image_size, settings.image_size), np.uint8)
    side = settings.image_size // checkpoint.scale_factor
    shape = (checkpoint.unet.config.in_channels, side, side)
    latents = torch.stack([noise(seed, index, shape) for seed, index in seeds])
    latents = latents.to(checkpoint.device, checkpoint.dtype if exact else torch.float32)
    generators = [generator(seed, index, "steps") for seed, index in seeds]
    text = embed(checkpoint, prompts)
    away = embed(checkpoint, negatives) if exact else blended(checkpoint, negatives)
    with quiet_numpy():
        latents = denoise(checkpoint, latents, text, away, settings, generators)
    return decode(checkpoint, latents, together=exact)


@torch.inference_mode()
def embed(checkpoint: Checkpoint, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings (B, tokens, width); each prompt is encoded by itself, once."""
    kept = checkpoint.embeddings
    if len(kept) > KEPT_EMBEDDINGS:
        kept.clear()
    for prompt in dict.fromkeys(prompts):
        if prompt not in kept:
            kept[prompt] = _encode(checkpoint, prompt)
    return torch.cat([kept[prompt] for prompt in prompts])


def blended(checkpoint: Checkpoint, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings (B, tokens, width) of negative prompts, parts between " | " averaged."""
    means = {prompt: embed(checkpoint, prompt.split(BLEND)).mean(0, keepdim=True) for prompt in {*prompts}}
    return torch.cat([means[prompt] for prompt in prompts])


def _encode(checkpoint: Checkpoint, prompt: str) -> torch.Tensor:
    tokenizer, encoder = checkpoint.tokenizer, checkpoint.text_encoder
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    text = checkpoint.spell(prompt)
    if len(tokenizer(text).input_ids) > length:
        warnings.warn(f"the prompt is longer than {length} tokens and is cut there: {prompt!r}", stacklevel=5)
    tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    masked = getattr(encoder.config, "use_attention_mask", False)
    mask = tokens.attention_mask.to(checkpoint.device) if masked else None
    return encoder(tokens.input_ids.to(checkpoint.device), attention_mask=mask)[0]


def denoise(
    checkpoint: Checkpoint,
    latents: torch.Tensor,
    text: torch.Tensor,
    negative: torch.Tensor,
    settings: Settings,
    generators: list[torch.Generator],
) -> torch.Tensor:
    """Standard normal noise (B, C, h, w) -> latents, by the scheduler's steps."""
    return deque(walk(checkpoint, latents, text, negative, settings, generators), maxlen=1)[0]


def walk(
    checkpoint: Checkpoint,
    latents: torch.Tensor,
    text: torch.Tensor,
    negative: torch.Tensor,
    settings: Settings,
    generators: list[torch.Generator],
    begin: int = 0,
    timesteps: Sequence[int] | None = None,
) -> Iterator[torch.Tensor]:
    """The latents (B, C, h, w) after each of the scheduler's steps.

    Args:
        latents: standard normal noise; for a later `begin`, latents at the noise level of that step.
        begin: the step, of `settings.num_inference_steps`, to begin with.
        timesteps: of each step, for a DPM-Solver; the scheduler's own choice when None.
    """
    scheduler = make_scheduler(checkpoint.scheduler_config, settings.scheduler)
    if timesteps is None:
        scheduler.set_timesteps(settings.num_inference_steps, device=checkpoint.device)
    else:
        scheduler.set_timesteps(timesteps=list(timesteps), device=checkpoint.device)
    both = torch.cat([negative, text])
    steps = len(scheduler.timesteps)
    if begin:
        scheduler.set_begin_index(begin)
    else:
        latents = latents * scheduler.init_noise_sigma
    with cached_features(checkpoint.unet, settings.feature_interval) as count:
        for step, time in enumerate(scheduler.timesteps[begin:], begin):
            count(step - begin)
            scaled = scheduler.scale_model_input(latents, time)
            if settings.guided(step, steps):
                away, own = (
                    predict(checkpoint, torch.cat([scaled, scaled]), time, both).to(latents.dtype).chunk(2)
                )
                prediction = guide(own, away, settings)
            else:
                prediction = predict(checkpoint, scaled, time, text).to(latents.dtype)
            extra = step_noise(scheduler, latents, settings, generators)
            latents = scheduler.step(prediction, time, latents, return_dict=False, **extra)[0]
            yield latents


def step_noise(
    scheduler: Any, latents: torch.Tensor, settings: Settings, generators: list[torch.Generator]
) -> dict[str, Any]:
    """What `scheduler.step` is told of the noise of the next step, if it draws any."""
    if settings.noise_scale != 1 and settings.scheduler.startswith(SCALED):
        drawn = randn_tensor(latents.shape, generators, latents.device, torch.float32)
        return {"variance_noise": settings.noise_scale * drawn}
    return {"generator": generators} if takes_generator(scheduler) else {}


def guide(own: torch.Tensor, away: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The guided prediction (B, C, h, w) of those with the prompt and with the negative prompt; see the module's docstring."""
    prediction = away + settings.guidance_scale * (own - away)
    if settings.guidance_mean != 1:
        shift = (prediction - own).mean((2, 3), keepdim=True)
        prediction = prediction - (1 - settings.guidance_mean) * shift
    if share := settings.guidance_rescale:
        spreads = own.std((1, 2, 3), keepdim=True) / prediction.std((1, 2, 3), keepdim=True)
        prediction = prediction * torch.lerp(torch.ones_like(spreads), spreads, share)
    return prediction


def predict(
    checkpoint: Checkpoint, latents: torch.Tensor, time: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """The U-Net's prediction of noise, v or sample, as the checkpoint was trained."""
    latents = latents.to(checkpoint.dtype, memory_format=torch.channels_last)
    return checkpoint.unet(latents, time, encoder_hidden_states=text, return_dict=False)[0]


@torch.inference_mode()
def decode(checkpoint: Checkpoint, latents: torch.Tensor, together: bool = False) -> np.ndarray:
    """Latents (B, C, h, w) -> uint8 (B, 1, H, W); RGB becomes its mean.

    Args:
        together: decode as one batch; on a CPU images are else decoded one by one, in less memory.
    """
    config = checkpoint.vae.config
    latents = latents / config.scaling_factor + (config.shift_factor or 0.0)
    latents = latents.to(checkpoint.dtype, memory_format=torch.channels_last)
    parts = [latents] if together or checkpoint.device.type != "cpu" else latents.split(1)
    images = torch.cat([checkpoint.vae.decode(part, return_dict=False)[0] for part in parts])
    grey = (images.float() / 2 + 0.5).clamp(0, 1).mean(1, keepdim=True)
    return (grey * 255).round().to(torch.uint8).contiguous().cpu().numpy()
