"""The route `unet_text_encoder`: U-Net and text encoder together, each at its own rate.

The best of RoentGen's arms (Chambon et al. 2022, arXiv:2211.12737): the text encoder learns what the words look like.
"""

from typing import Literal

from pydantic import Field

from synthaug.adaptation.denoising import TextToNoise
from synthaug.adaptation.fine_tuning import FineTuningRecipe
from synthaug.adaptation.route import Job
from synthaug.adaptation.unet import UNet


class UNetTextEncoderRecipe(FineTuningRecipe):
    """`text_encoder_rate`: the text encoder's share of `training.learning_rate`; `widen` and `deepen` as of route `unet`."""

    route: Literal["unet_text_encoder"] = "unet_text_encoder"
    text_encoder_rate: float = Field(default=1.0, gt=0)
    widen: int | None = Field(default=None, gt=0)
    deepen: tuple[int, ...] | None = None


class UNetTextEncoder(UNet):
    """Full fine-tuning of both; the result is a checkpoint of its own."""

    def __init__(self, job: Job):
        super().__init__(job)
        self.rates = {"text_encoder.": self.recipe.text_encoder_rate}

    def prepare(self) -> TextToNoise:
        self.base.text_encoder.requires_grad_(True)
        return super().prepare()
