"""The from-scratch route: a small latent diffusion model of radiographs, trained part by part.

    films -> autoencoder -> latents -> text encoder + U-Net, small images first -> checkpoint

With a closed-form encoder the latents do not depend on the trained decoder, so `part="autoencoder"` and
`part="unet"` may run at the same time, in two processes. Run again without a part, they are found finished
and the checkpoint is written.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synthaug import prompts
from synthaug.adaptation import latents
from synthaug.adaptation.autoencoding import (
    AutoencoderRecipe,
    AutoencoderRoute,
    AutoencoderShape,
    build_autoencoder,
)
from synthaug.adaptation.captions import CaptionRecipe
from synthaug.adaptation.denoising import DiffusionRecipe, DiffusionRoute, TextToNoise
from synthaug.adaptation.films import for_findings, lacking, load
from synthaug.adaptation.latents import AugmentationRecipe
from synthaug.adaptation.loop import Training
from synthaug.adaptation.masters import in_kind
from synthaug.adaptation.principal_components import PrincipalComponents, fit
from synthaug.adaptation.route import Findings, Job, Progress, RouteRecipe, Run, SamplingDefaults
from synthaug.adaptation.small_text_encoder import TextEncoderShape, build_text_encoder, train_tokenizer
from synthaug.diffusion.card import CheckpointCard
from synthaug.diffusion.checkpoint import Checkpoint, save_checkpoint
from synthaug.recipes import Recipe
from synthaug.record import Record

WEIGHTS = "weights.safetensors"


class UNetShape(Recipe):
    """Widths from the latents' resolution down; all but the first level attend to the text."""

    widths: tuple[int, ...] = (64, 128, 256)
    layers: int = Field(default=1, gt=0)
    heads: int = Field(default=4, gt=0)
    groups: int = Field(default=16, gt=0)


class ScheduleRecipe(Recipe):
    """Scaled-linear betas with zero terminal SNR (Lin et al. 2023, arXiv:2305.08891): without it the brightness
    of a film stays visible at the noisiest training step, and samples come out with half the contrast."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    zero_terminal_snr: bool = True

    def build(self) -> DDPMScheduler:
        """The training scheduler."""
        return DDPMScheduler(**self._arguments(), clip_sample=False)

    def sampler(self) -> DPMSolverMultistepScheduler:
        """The sampling scheduler that the checkpoint is saved with."""
        return DPMSolverMultistepScheduler(**self._arguments())

    def _arguments(self) -> dict[str, Any]:
        return {
            "beta_schedule": "scaled_linear",
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction_type": self.prediction_type,
            "rescale_betas_zero_snr": self.zero_terminal_snr,
            "timestep_spacing": "trailing",
        }


class LegRecipe(DiffusionRecipe):
    """One leg of the U-Net's training at one image size; the next leg starts from its moving average."""

    image_size: int = Field(gt=0)


class FromScratchRecipe(RouteRecipe):
    """Everything that decides the weights, films aside. `without`: findings that no film may show, so that the result never saw
    them, as a closed claim asks (`synthaug benchmark --claim closed`); films of which it is not known are left out too."""

    route: Literal["from_scratch"] = "from_scratch"
    image_size: int = Field(default=256, gt=0)
    autoencoder: AutoencoderShape = AutoencoderShape()
    autoencoder_training: AutoencoderRecipe
    text_encoder: TextEncoderShape = TextEncoderShape()
    unet: UNetShape = UNetShape()
    schedule: ScheduleRecipe = ScheduleRecipe()
    captions: CaptionRecipe = CaptionRecipe()
    augmentation: AugmentationRecipe = AugmentationRecipe()
    without: Findings = ()
    legs: tuple[LegRecipe, ...] = Field(min_length=1)
    sampling: SamplingDefaults = SamplingDefaults()

    def film_sizes(self) -> tuple[int, ...]:
        """Sizes at which the films are needed."""
        return tuple(sorted({self.image_size, self.source_size(), *self.autoencoder_training.film_sizes}))

    def source_size(self) -> int:
        """Size from which augmented copies are resampled: half as large again keeps them sharp."""
        return self.image_size * 3 // 2


class FromScratch(Run):
    """One run of the route; its state lies under `job.out/training`, part by part."""

    def __init__(self, job: Job):
        super().__init__(job)
        recipe = self.recipe = job.recipe
        self.folder, self.accelerator = job.out, job.accelerator
        self.compiled = job.execution.compiled
        self.films = load(
            job.data,
            recipe.film_sizes(),
            recipe.minimum_age,
            job.on_films,
            self._choose,
            job.storage,
        )
        small = self.films.pyramid[recipe.image_size]
        self.vae = build_autoencoder(recipe.autoencoder, small)
        self.components: PrincipalComponents | None = None
        if recipe.autoencoder.encoder == "principal_components":
            self.components = fit(
                small, recipe.autoencoder.latent_channels, whitening=recipe.autoencoder.whitening
            )
        self.tokenizer = train_tokenizer(prompts.words(), recipe.text_encoder.length)
        self.text_encoder = build_text_encoder(recipe.text_encoder, self.tokenizer)
        self.unet = self._build_unet()

    def _choose(self, records: Sequence[Record]) -> list[int]:
        kept = lacking(records, self.recipe.without)
        few = for_findings([records[i] for i in kept], self.recipe.findings, None, self.recipe.legs[0].seed)
        return [kept[i] for i in few]

    def parameters(self) -> tuple[int, int]:
        models = (self.vae.decoder, self.text_encoder, self.unet)
        encoder = sum(p.numel() for p in self.vae.encoder.parameters())
        total = sum(p.numel() for model in models for p in model.parameters()) + encoder
        return total - (encoder if self.components is not None else 0), total

    def facts(self) -> dict[str, Any]:
        return {"image_size": self.recipe.image_size}

    def advance(self) -> Iterator[Progress]:
        """Train what is not finished: one part, or all and then write the checkpoint."""
        part = self.job.execution.part
        if part in (None, "autoencoder") or self.components is None:
            yield from self._train_autoencoder()
        if part in (None, "unet"):
            yield from self._train_unet()
        if part is None and self.accelerator.is_main_process:
            save_checkpoint(
                self.folder,
                self.unet,
                self.vae,
                self.text_encoder,
                self.tokenizer,
                self.recipe.schedule.sampler(),
                self.card(),
            )

    def card(self) -> CheckpointCard:
        """`synthaug.json` of the checkpoint."""
        recipe = self.recipe
        return CheckpointCard(
            findings=recipe.findings,
            seen=self.films.seen(),
            views=recipe.views,
            image_size=recipe.image_size,
            template=recipe.captions.template,
            route=recipe.route,
            **dict(recipe.sampling),
            attribution=recipe.attribution,
        )

    def _train_autoencoder(self) -> Iterator[Progress]:
        recipe, home = self.recipe.autoencoder_training, self.state / "autoencoder"
        if not self._finished(home, self.vae):
            pyramid = [self.films.pyramid[size] for size in recipe.film_sizes]
            route = AutoencoderRoute(
                self.vae.to(self.accelerator.device), recipe, pyramid, self.components, self.compiled
            )
            identity = {
                "recipe": recipe.values(),
                "shape": self.recipe.autoencoder.values(),
                "films": self.films.digest,
            }
            # The losses (spectra, an adversary) need float32 and stay with autocast.
            training = self.training(route, recipe, home, identity, half=False)
            yield from self._advance(training, "autoencoder", "autoencoder", self.vae)
        self.vae.to("cpu")

    def _train_unet(self) -> Iterator[Progress]:
        module = TextToNoise(self.unet, self.text_encoder, self.compiled)
        self.vae.to(self.accelerator.device)
        for number, leg in enumerate(self.recipe.legs):
            home = self.state / f"unet-{number}"
            if self._finished(home, module):
                continue
            with self.accelerator.main_process_first():
                cached = latents.cache(
                    self.state / "latents",
                    self.films.pyramid[self.recipe.source_size()],
                    leg.image_size,
                    self._encode,
                    self._encoder_digest(),
                    self.recipe.augmentation,
                    self.accelerator.device,
                )
            scheduler = self.recipe.schedule.build()
            module.to(self.accelerator.device)
            route = DiffusionRoute(
                module, self.tokenizer, scheduler, cached, self.films.records, leg, self.recipe.captions
            )
            identity = {
                "leg": leg.values(),
                "unet": self.recipe.unet.values(),
                "text_encoder": self.recipe.text_encoder.values(),
                "schedule": self.recipe.schedule.values(),
                "captions": self.recipe.captions.values(),
                "augmentation": self.recipe.augmentation.values(),
                "encoder": self._encoder_digest(),
                "films": self.films.digest,
                "tokens": hashlib.sha256(
                    json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode()
                ).hexdigest(),
                "start": _digest(module.state_dict()),
            }
            training = self.training(route, leg, home, identity)
            name = f"unet {number + 1}/{len(self.recipe.legs)}"
            yield from self._advance(training, "unet", name, module, leg.image_size)
        module.to("cpu")

    def _advance(
        self, training: Training, player: str, name: str, module: nn.Module, size: int | None = None
    ) -> Iterator[Progress]:
        """Run one training to its end and leave `module` with the moving average, also on disk.

        `size`: of sample grids; none are made when None.
        """
        save_every = self.job.execution.save_every
        steps = min(training.recipe.steps, self.job.execution.max_steps or training.recipe.steps)
        for record in training.run(save_every, until=steps):
            yield Progress(name, steps, record)
            due = record.step % save_every == 0 and self.accelerator.is_main_process
            if self.job.on_samples and size and due:
                with training.swapped(player):
                    self.job.on_samples(name, record.step, size, self._as_checkpoint())
        training.finish()
        averaged = {
            key: value.detach().cpu().contiguous() for key, value in training.averaged(player).items()
        }
        module.load_state_dict(averaged, strict=False)
        if training.step >= training.recipe.steps and self.accelerator.is_main_process:
            save_file(averaged, training.folder / WEIGHTS)

    def _finished(self, home: Path, module: nn.Module) -> bool:
        if not (home / WEIGHTS).exists():
            return False
        module.load_state_dict(load_file(home / WEIGHTS), strict=False)
        return True

    def _as_checkpoint(self) -> Checkpoint:
        scheduler = self.recipe.schedule.sampler()
        return Checkpoint(
            unet=self.unet,
            vae=in_kind(self.vae, self.unet.dtype),
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler_config={**scheduler.config, "_class_name": type(scheduler).__name__},
            card=self.card(),
            name=str(self.folder.name),
            sha256="",
        )

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        mean = self.components.encode(pixels) if self.components else self.vae.encode(pixels).latent_dist.mean
        return mean * self.vae.config.scaling_factor

    def _encoder_digest(self) -> str:
        if self.components is not None:
            return _digest({"filters": self.components.filters, "bias": self.components.bias})
        return _digest(AutoencoderKL.state_dict(self.vae))

    def _build_unet(self) -> UNet2DConditionModel:
        shape, levels = self.recipe.unet, len(self.recipe.unet.widths)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return UNet2DConditionModel(
                sample_size=self.recipe.image_size // 2 ** (len(self.recipe.autoencoder.widths) - 1),
                in_channels=self.recipe.autoencoder.latent_channels,
                out_channels=self.recipe.autoencoder.latent_channels,
                down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
                up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
                block_out_channels=shape.widths,
                layers_per_block=shape.layers,
                cross_attention_dim=self.recipe.text_encoder.width,
                attention_head_dim=shape.heads,
                norm_num_groups=shape.groups,
                use_linear_projection=True,
            )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(json.dumps([name, list(tensors[name].shape)]).encode())
        sha.update(tensors[name].detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:32]
