"""What a training run of a detector is to do, and what it tells step by step."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from synthaug.detection.augment import Augmentation
from synthaug.detection.detector import Head, Start
from synthaug.detection.films import Fit
from synthaug.recipes import Recipe


class TrainRecipe(Recipe):
    """What a training run is to do."""

    arch: str = Field(default="densenet121", description="any timm name")
    head: Head = Field(
        default="network",
        description="linear: the network stays as it starts, a logistic regression reads it at several depths",
    )
    findings: tuple[str, ...] | None = Field(
        default=None, description="heads; default: what the data can teach"
    )
    image_size: int = Field(default=224, ge=32)
    fit: Fit = "crop"
    normalisation: Literal["film", "fixed"] = "film"
    start: Start = "random"
    seed: int = Field(default=0, ge=0)
    steps: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="fraction of the steps")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    ema: float = Field(default=0.998, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    balance: Literal["sampling", "weights", "none"] = "sampling"
    emphasis: dict[str, float] = Field(
        default={}, description="weight of a finding in the loss, 1 by default"
    )
    augmentation: Augmentation = Augmentation()
    validation_fraction: float = Field(
        default=0.15, gt=0, lt=0.9, description="of the patients, where no set is given"
    )
    validate_every: int = Field(default=100, ge=1)
    select: tuple[str, ...] = Field(default=(), description="findings whose mean AUROC decides; default: all")
    keep: Literal["best", "last"] = "best"
    absent: Literal["known", "no_finding"] = Field(
        default="known",
        description="thresholds, and a linear head, tell a finding from every film without it, or from no_finding films",
    )
    strengths: tuple[float, ...] = Field(
        default=(1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        min_length=1,
        description="of a linear head: inverse penalties, one a finding is chosen by cross-validation over patients",
    )


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: its loss, and at validation steps the AUROC of each finding that validation can measure.

    A linear head has no loss and no learning rate: its steps are batches of films that are read, then findings that are fitted.
    """

    step: int
    steps: int
    loss: float | None
    learning_rate: float | None
    validation: dict[str, float] | None = None
    best: bool = False
