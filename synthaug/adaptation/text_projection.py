"""The route `text_projection`: another text encoder in CLIP's place, behind a trained projection.

First the projection is fitted to CLIP's space on text alone (`synthaug.diffusion.projected_text_encoder`); no film is
looked at. Then it is trained with the diffusion loss, with the encoder and the U-Net or without them. The result is a
checkpoint of its own, with the encoder and its tokenizer inside. Chambon et al. 2022, arXiv:2210.04133.
"""

import copy
from itertools import product
from typing import Any, Literal

import torch
from pydantic import Field

from synthaug import prompts
from synthaug.adaptation.denoising import TextToNoise, text_length
from synthaug.adaptation.embeddings import reader
from synthaug.adaptation.fine_tuning import FineTuningRecipe
from synthaug.adaptation.route import Job
from synthaug.adaptation.unet import UNet
from synthaug.diffusion.card import CheckpointCard
from synthaug.diffusion.projected_text_encoder import (
    ProjectedTextConfig,
    ProjectedTextEncoder,
    fit_projection,
)
from synthaug.diffusion.text_encoders import open_text_encoder
from synthaug.findings import FINDINGS, NO_FINDING
from synthaug.record import VIEWS

TURNS = 4  # prompts of each finding that the projection is fitted on, views, sexes and ages taken in turn


class TextProjectionRecipe(FineTuningRecipe):
    """`text_encoder`: folder or hub id, unless --text-encoder names one; the base's own where neither does.

    `trains`: what follows the diffusion loss; "nothing" keeps the fit on text. `fit`: whether the projection starts from that
    fit; `ridge`: its penalty.
    """

    route: Literal["text_projection"] = "text_projection"
    text_encoder: str | None = None
    fit: bool = True
    ridge: float = Field(default=1e-3, ge=0)
    trains: Literal["nothing", "projection", "projection_encoder", "projection_unet", "all"] = "projection"
    encoder_rate: float = Field(default=0.1, gt=0)
    unet_rate: float = Field(default=1.0, gt=0)


class TextProjection(UNet):
    """Trains the projection, and what else `trains` names."""

    def __init__(self, job: Job):
        self.explained: float | None = None
        super().__init__(job)
        self.rates = {
            "text_encoder.encoder.": self.recipe.encoder_rate,
            "unet.": self.recipe.unet_rate,
        }

    def prepare(self) -> TextToNoise:
        recipe, base = self.recipe, self.base
        source = self.job.text_encoder or recipe.text_encoder
        length = text_length(base.tokenizer, TextToNoise(base.unet, base.text_encoder))
        with torch.random.fork_rng():
            torch.manual_seed(recipe.training.seed)
            if source is None:
                encoder, tokenizer = self._own(length), base.tokenizer
            else:
                encoder, tokenizer = open_text_encoder(source, base.unet.config.cross_attention_dim, length)
        length = (
            encoder.config.max_position_embeddings
        )  # less than the base's where the encoder has fewer places
        if recipe.fit:
            self.explained = fit_projection(
                encoder, reader(tokenizer, length), self._clip(length), self._corpus(), recipe.ridge
            )
        encoder.requires_grad_(False)
        encoder.projection.requires_grad_(recipe.trains != "nothing")
        for name, p in encoder.encoder.named_parameters():
            # A pooler is behind the states that are read, and would get no gradient.
            p.requires_grad_(recipe.trains in ("projection_encoder", "all") and "pooler" not in name)
        base.unet.requires_grad_(recipe.trains in ("projection_unet", "all"))
        self.tokenizer = tokenizer
        return TextToNoise(base.unet, encoder, self.job.execution.compiled)

    def card(self) -> CheckpointCard:
        return super().card().model_copy(update={"tokens": {}})  # learnt tokens were the replaced encoder's

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "variance of the base's text space explained": self.explained}

    def _own(self, length: int) -> ProjectedTextEncoder:
        """The base's encoder behind a projection of its own."""
        model = copy.deepcopy(self.base.text_encoder)
        if isinstance(model, ProjectedTextEncoder):
            model = model.encoder
        width = self.base.unet.config.cross_attention_dim
        shape = ProjectedTextConfig(encoder=model.config.to_dict(), hidden_size=width, length=length)
        return ProjectedTextEncoder(shape, model.eval()).eval()

    def _clip(self, length: int) -> Any:
        base, read = self.base, reader(self.base.tokenizer, length)
        return lambda texts: base.text_encoder(read([base.spell(text) for text in texts])).last_hidden_state

    def _corpus(self) -> list[str]:
        """Texts to fit on: prompts of single findings, and the films' own texts."""
        template = self.recipe.captions.template
        texts = [text for own in self.job.captions.values() for text in own]
        labels = [{}, {NO_FINDING: 1.0}, *({finding: 1.0} for finding in FINDINGS if finding != NO_FINDING)]
        people = list(product((None, *VIEWS), (None, "F", "M"), (None, 25.0, 65.0)))
        for number, known in enumerate(labels):
            for turn in range(TURNS):
                view, sex, age = people[(number * TURNS + turn) % len(people)]
                texts.append(prompts.render(known, view=view, sex=sex, age=age, template=template))
        return list(dict.fromkeys(["", *texts]))
