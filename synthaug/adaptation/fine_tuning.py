"""What the routes with the diffusion loss share: from a base checkpoint and films to trained parameters.

    base + films -> latents of its own autoencoder -> diffusion loss on the parameters that the route frees -> result

A route says which parameters are free (`prepare`) and how they are written (`write`). The films are encoded once;
the base's scheduler decides noise schedule and prediction type.
"""

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from diffusers import DDPMScheduler
from pydantic import Field
from torch import Tensor, nn

from synthaug.adaptation import embeddings, films, latents
from synthaug.adaptation.captions import CaptionRecipe, own_texts
from synthaug.adaptation.denoising import DiffusionRecipe, DiffusionRoute, TextToNoise, text_length
from synthaug.adaptation.films import Films
from synthaug.adaptation.latents import AugmentationRecipe
from synthaug.adaptation.loop import Route, StepRecord, Training
from synthaug.adaptation.masters import in_kind
from synthaug.adaptation.principal_components import read_encoder
from synthaug.adaptation.prior import PriorRecipe, class_films
from synthaug.adaptation.route import Job, Progress, RouteRecipe, Run, SamplingDefaults
from synthaug.diffusion.card import CheckpointCard
from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.schedule import quiet_numpy
from synthaug.errors import CheckpointError, UserError
from synthaug.findings import FINDINGS
from synthaug.record import VIEWS, Record


class FineTuningRecipe(RouteRecipe):
    """What the diffusion routes share.

    `findings`: what is learnt; each must have a film. `image_size`: the base's when None. `per_finding`: take so many
    films of each finding instead of all (few-shot). `validation`: share of the patients held out for a loss that is no
    training loss. `posterior`: latents are the encoder's mean, or drawn anew in each step from what it says of a film, as in
    Stable Diffusion's own training. `zero_terminal_snr`: retrain the schedule (arXiv:2305.08891), v-prediction only.
    """

    image_size: int | None = Field(default=None, gt=0)
    per_finding: int | None = Field(default=None, gt=0)
    validation: float = Field(default=0.0, ge=0, lt=1)
    captions: CaptionRecipe = CaptionRecipe()
    augmentation: AugmentationRecipe = AugmentationRecipe()
    posterior: Literal["mean", "sample"] = "mean"
    offset_noise: float = Field(default=0.0, ge=0)
    zero_terminal_snr: bool = False
    prior: PriorRecipe | None = None
    training: DiffusionRecipe
    sampling: SamplingDefaults | None = None


class Validated(Route, Protocol):
    """A route whose error on given films can be looked at, with noise, times and captions that never change."""

    def fixed_batch(self, films: Sequence[int], /, seed: int = 0) -> Any: ...

    def errors(self, module: Callable[..., Any], batch: Any, /) -> Tensor: ...


class FineTuning(Run):
    """A run of a diffusion route; subclasses say what is trained and how it is written."""

    divisible = True
    rates: Mapping[str, float] = {}

    def __init__(self, job: Job):
        super().__init__(job)
        if job.base is None:
            raise UserError(f"--recipe with route {job.recipe.route}: give the base with --model")
        self.recipe, self.base = job.recipe, job.base
        self.size = self.recipe.image_size or self.base.image_size
        if self.size % self.base.scale_factor:
            raise UserError(
                f"image_size {self.size}: expected a multiple of {self.base.scale_factor}, "
                f"the pixels of one latent of {self.base.name}"
            )
        self.scheduler = self._training_scheduler()
        self.components = read_encoder(self.base.vae)
        self.tokenizer = self.base.tokenizer
        held = films.load(
            job.data, (self.size * 3 // 2,), self.recipe.minimum_age, job.on_films, self._choose, job.storage
        )
        own = [
            replace(r, provenance={**r.provenance, "captions": job.captions[r.key]})
            if r.key in job.captions
            else r
            for r in held.records
        ]
        self.films = Films(held.pyramid, tuple(own))
        self.module = self.prepare()
        self._count_cut_texts()
        if job.execution.checkpointing:
            self.base.unet.enable_gradient_checkpointing()
            self.base.unet.train()

    def _count_cut_texts(self) -> None:
        texts = list(dict.fromkeys(text for record in self.films.records for text in own_texts(record)))
        length = text_length(self.tokenizer, self.module)
        cut = [text for text in texts if len(self.tokenizer(text).input_ids) > length]
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts are longer than the {length} tokens that the text encoder reads, "
                f"and are cut there; the first: {cut[0][:80]!r}",
                stacklevel=2,
            )

    @abstractmethod
    def prepare(self) -> TextToNoise:
        """Free the parameters that the route trains."""

    @abstractmethod
    def write(self) -> None:
        """Write the trained parameters, which are in place, as the route's result."""

    def parameters(self) -> tuple[int, int]:
        free = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        return free, sum(p.numel() for m in (self.module, self.base.vae) for p in m.parameters())

    def facts(self) -> dict[str, Any]:
        base, card = self.base, self.card()
        return {
            "findings": list(card.findings),
            "views": list(card.views),
            "base": {**self.base_facts().model_dump(), "terms": base.card.attribution or "unknown"},
            "parameters trained": self.parameters()[0],
            "parameters": self.parameters()[1],
        }

    def card(self) -> CheckpointCard:
        """`synthaug.json` of the result: what the base knows and what was learnt."""
        recipe, before = self.recipe, self.base.card
        # Nobody knows what a foreign checkpoint can draw, so its successor claims only what it learnt.
        known = () if before.route == "foreign" else before.findings
        views = () if before.route == "foreign" else before.views
        # What a recipe does not set stays the base's.
        sampling = recipe.sampling.model_dump(exclude_unset=True) if recipe.sampling else {}
        return before.model_copy(
            update={
                "findings": tuple(f for f in FINDINGS if f in {*known, *recipe.findings}),
                "refused": {f: why for f, why in before.refused.items() if f not in recipe.findings},
                "seen": self.films.seen(before.seen),
                "views": tuple(v for v in VIEWS if v in {*views, *recipe.views}),
                "image_size": self.size,
                "template": recipe.captions.template,
                "route": recipe.route,
                "base": self.base_facts(),
                **sampling,
                "attribution": " ".join(filter(None, (recipe.attribution, before.attribution))),
            }
        )

    def advance(self) -> Iterator[Progress]:
        job, recipe = self.job, self.recipe
        device = job.accelerator.device
        self.base.vae.to(device)
        with job.accelerator.main_process_first():
            pixels, records, prior = (
                self.films.pyramid[self.size * 3 // 2],
                list(self.films.records),
                range(0),
            )
            if recipe.prior is not None:
                more = class_films(recipe.prior, self.base, self.size * 3 // 2, self.state, device)
                prior = range(len(records), len(records) + len(more.records))
                pixels = torch.cat([torch.from_numpy(p) for p in (pixels, *more.pyramid.values())]).numpy()
                records += more.records
            cached = latents.cache(
                self.state / "latents",
                pixels,
                self.size,
                self._encode,
                self._vae_digest(),
                recipe.augmentation,
                device,
            )
        out = films.held_out(self.films.records, recipe.validation, recipe.training.seed)
        self.module.to(device)
        with job.accelerator.main_process_first():
            stored = self._read_texts(records)
        route = DiffusionRoute(
            self.module,
            self.tokenizer,
            self.scheduler,
            cached,
            records,
            recipe.training,
            recipe.captions,
            offset_noise=recipe.offset_noise,
            train=[i for i in range(len(self.films.records)) if i not in set(out)],
            prior=prior,
            prior_share=recipe.prior.share if recipe.prior else 0.0,
            prior_weight=recipe.prior.weight if recipe.prior else 1.0,
            moments=recipe.posterior == "sample",
            spell=self.as_checkpoint().spell,
            stored=stored,
        )
        if self.parameters()[0]:
            home, identity = self.state / recipe.route, self.identity(records)
            training = self.training(route, recipe.training, home, identity, self.rates)
            yield from self._train(training, route, out)
            training.leave("unet", self.module)
        self.end()

    def end(self) -> None:
        """Write the result, by one process."""
        accelerator = self.job.accelerator
        if accelerator.is_main_process:
            for model in (self.module, self.base.vae):
                model.to("cpu")
            self.write()
        accelerator.wait_for_everyone()

    def identity(self, records: list[Any]) -> dict[str, Any]:
        """What a resume must find equal: recipe, base, films and their texts."""
        texts = hashlib.sha256(repr([r.to_json() for r in records]).encode()).hexdigest()
        recipe = self.recipe.values()
        # States from before there was a choice do not name it.
        if recipe["posterior"] == "mean":
            del recipe["posterior"]
        if not recipe["training"]["dropout"]:
            del recipe["training"]["dropout"]
        return {
            "recipe": recipe,
            "base": self.base.sha256,
            "films": self.films.digest,
            "records": texts,
        }

    def _train(self, training: Training, route: Validated, out: list[int]) -> Iterator[Progress]:
        execution, name = self.job.execution, self.recipe.route
        steps = min(self.recipe.training.steps, execution.max_steps or self.recipe.training.steps)
        for record in training.run(execution.save_every, until=steps):
            if record.step % execution.save_every == 0 or record.step == steps:
                with training.swapped("unet"):
                    if out:
                        figures = {**record.figures, "unet/validation": self._validate(route, out)}
                        record = StepRecord(record.step, figures, record.learning_rate)
                    # A network that is cut computes in all processes or in none.
                    if self.job.on_samples and (self.sharding or self.job.accelerator.is_main_process):
                        self.job.on_samples(name, record.step, self.size, self.as_checkpoint())
            yield Progress(name, steps, record)

    @torch.no_grad()
    def _validate(self, route: Validated, out: list[int]) -> float:
        """Mean error on the held-out patients' films, with noise, times and captions that never change."""
        size = self.recipe.training.batch_size
        errors = [
            route.errors(self.module, route.fixed_batch(out[start : start + size], seed=start))
            for start in range(0, len(out), size)
        ]
        return float(torch.cat(errors).mean())

    def as_checkpoint(self) -> Checkpoint:
        """The base with what was trained in place, for samples."""
        return replace(
            self.base,
            vae=in_kind(self.base.vae, self.module.unet.dtype),
            unet=self.module.unet,
            text_encoder=self.module.text_encoder,
            tokenizer=self.tokenizer,
            card=self.card(),
            embeddings={},
            scheduler_config=self.scheduler_config(),
        )

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        vae = self.base.vae
        if self.components is not None and self.recipe.posterior == "mean":
            return self.components.encode(pixels) * vae.config.scaling_factor
        found = vae.encode(pixels.expand(-1, vae.config.in_channels, -1, -1)).latent_dist
        parts = [found.mean - (vae.config.shift_factor or 0.0)]
        parts += [found.std] if self.recipe.posterior == "sample" else []
        return torch.cat(parts, 1) * vae.config.scaling_factor

    def _vae_digest(self) -> str:
        moments = "-moments" if self.recipe.posterior == "sample" else ""
        return _digest(self.base.vae.encoder)[:32] + moments

    def _read_texts(self, records: Sequence[Record]) -> Mapping[str, Tensor]:
        """What a frozen text encoder makes of the films' own texts, from disk."""
        spell, encoder = self.as_checkpoint().spell, self.module.text_encoder
        own = {spell(text): None for record in records for text in own_texts(record)}
        if not own or not self.module.frozen_text:
            return {}
        device = self.job.accelerator.device
        return embeddings.cache(
            self.state / "latents",
            ["", *own],  # captions that were dropped are empty
            embeddings.reader(self.tokenizer, text_length(self.tokenizer, self.module)),
            lambda tokens: encoder(tokens.to(device)).last_hidden_state.cpu(),
            _digest(encoder),
        )

    def scheduler_config(self) -> dict[str, Any]:
        """The schedule that the result is saved with."""
        config = dict(self.base.scheduler_config)
        if self.recipe.zero_terminal_snr:
            config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
            if config["_class_name"] in ("PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"):
                config["_class_name"] = "DDIMScheduler"  # these cannot start from pure noise
        return config

    def _training_scheduler(self) -> DDPMScheduler:
        config = self.scheduler_config()
        kind = config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise CheckpointError(
                f"--model {self.base.name}: predicts {kind!r}; adapted are checkpoints that predict epsilon or v_prediction"
            )
        if self.recipe.zero_terminal_snr and kind != "v_prediction":
            raise UserError(
                f"zero_terminal_snr: {self.base.name} predicts epsilon, which says nothing at pure noise; "
                "expected a base with v_prediction, or zero_terminal_snr: false"
            )
        with quiet_numpy():
            return DDPMScheduler.from_config(config, clip_sample=False)

    @property
    def _choose(self) -> Callable[[Any], list[int]]:
        recipe = self.recipe
        return lambda records: films.for_findings(
            records, recipe.findings, recipe.per_finding, recipe.training.seed
        )


def _digest(module: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        sha.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
