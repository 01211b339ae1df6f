"""The route `vae`: the base's autoencoder on radiographs, its decoder alone or all of it.

Measure first (`synthaug adapt --recipe vae --study`): an autoencoder that keeps films as they are needs no training.
A new decoder changes no latent, so the U-Net stays as good as it was. A new encoder changes them all: the U-Net of the
result no longer fits and has to be adapted next (route `unet`); the model card says so.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from synthaug.adaptation import films
from synthaug.adaptation.autoencoding import AutoencoderRecipe, AutoencoderRoute
from synthaug.adaptation.principal_components import read_encoder
from synthaug.adaptation.route import Job, Progress, RouteRecipe, Run
from synthaug.diffusion.checkpoint import save_as_saved
from synthaug.errors import UserError


class VaeRecipe(RouteRecipe):
    """`trains`: the decoder, or the encoder too; `training`: losses and lengths; `image_size`: the base's when None."""

    route: Literal["vae"] = "vae"
    image_size: int | None = Field(default=None, gt=0)
    per_finding: int | None = Field(default=None, gt=0)
    trains: Literal["decoder", "all"] = "decoder"
    training: AutoencoderRecipe


class Vae(Run):
    """Trains the autoencoder; the result is a checkpoint of its own with the base's other parts."""

    def __init__(self, job: Job):
        super().__init__(job)
        if job.base is None:
            raise UserError("--recipe with route vae: give the base with --model")
        self.recipe, self.base = job.recipe, job.base
        recipe, factor = self.recipe, self.base.scale_factor
        if recipe.training.crop % factor or recipe.training.crop > min(recipe.training.film_sizes):
            raise UserError(
                f"training.crop {recipe.training.crop}: expected a multiple of {factor} "
                f"and at most the smallest of film_sizes {list(recipe.training.film_sizes)}"
            )
        self.films = films.load(
            job.data,
            recipe.training.film_sizes,
            recipe.minimum_age,
            job.on_films,
            lambda records: films.for_findings(
                records, recipe.findings, recipe.per_finding, recipe.training.seed
            ),
            job.storage,
        )
        vae = self.base.vae
        vae.decoder.requires_grad_(True)
        if vae.post_quant_conv is not None:
            vae.post_quant_conv.requires_grad_(True)
        if recipe.trains == "all":
            vae.requires_grad_(True)

    def parameters(self) -> tuple[int, int]:
        models = (self.base.unet, self.base.vae, self.base.text_encoder)
        free = sum(p.numel() for p in self.base.vae.parameters() if p.requires_grad)
        return free, sum(p.numel() for model in models for p in model.parameters())

    def facts(self) -> dict[str, Any]:
        base, facts = self.base, {}
        if self.recipe.trains == "all":
            facts["note"] = "the encoder was trained, so the U-Net no longer fits its latents: adapt it next"
        free, total = self.parameters()
        return {
            "base": {**self.base_facts().model_dump(), "terms": base.card.attribution or "unknown"},
            "parameters trained": free,
            "parameters": total,
            **facts,
        }

    def advance(self) -> Iterator[Progress]:
        job, recipe, base = self.job, self.recipe, self.base
        vae = base.vae.to(job.accelerator.device)
        pyramid = [self.films.pyramid[size] for size in recipe.training.film_sizes]
        components = read_encoder(vae) if recipe.trains == "decoder" else None
        route = AutoencoderRoute(vae, recipe.training, pyramid, components, job.execution.compiled)
        identity = {"recipe": recipe.values(), "base": self.base.sha256, "films": self.films.digest}
        # The losses (spectra, an adversary) need float32 and stay with autocast.
        training = self.training(route, recipe.training, self.state / recipe.route, identity, half=False)
        steps = min(recipe.training.steps, job.execution.max_steps or recipe.training.steps)
        for record in training.run(job.execution.save_every, until=steps):
            yield Progress(recipe.route, steps, record)
        training.leave("autoencoder", vae)
        if job.accelerator.is_main_process:
            vae.to("cpu")
            update: dict[str, Any] = {
                "route": recipe.route,
                "seen": self.films.seen(base.card.seen),
                "base": self.base_facts(),
                "attribution": " ".join(filter(None, (recipe.attribution, base.card.attribution))),
            }
            save_as_saved(job.out, replace(base, card=base.card.model_copy(update=update)))
        job.accelerator.wait_for_everyone()
