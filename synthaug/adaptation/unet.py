"""The route `unet`: all of the U-Net, the rest frozen (Chambon et al. 2022, arXiv:2210.04133), with or without a prior."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from synthaug.adaptation.deepening import deepen
from synthaug.adaptation.denoising import TextToNoise
from synthaug.adaptation.fine_tuning import FineTuning, FineTuningRecipe
from synthaug.adaptation.widening import widen
from synthaug.diffusion.checkpoint import save_as_saved


class UNetRecipe(FineTuningRecipe):
    """See `FineTuningRecipe`. Before training begins the U-Net may grow; the base's own size when None.

    `widen`: channels of the finest level (`widening`); `deepen`: residual blocks of each level, finest first (`deepening`).
    """

    route: Literal["unet"] = "unet"
    widen: int | None = Field(default=None, gt=0)
    deepen: tuple[int, ...] | None = None


class UNet(FineTuning):
    """Full fine-tuning of the U-Net; the result is a checkpoint of its own."""

    def prepare(self) -> TextToNoise:
        if self.recipe.widen:
            self.base = replace(self.base, unet=widen(self.base.unet, self.recipe.widen))
        if self.recipe.deepen:
            self.base = replace(self.base, unet=deepen(self.base.unet, self.recipe.deepen))
        self.base.unet.requires_grad_(True)
        return TextToNoise(self.base.unet, self.base.text_encoder, self.job.execution.compiled)

    def write(self) -> None:
        save_as_saved(self.job.out, self.as_checkpoint())
