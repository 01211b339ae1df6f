"""What every route of adaptation has in common: the shape of its recipe, of its run, and how it is executed.

A route is a name, a recipe class and a run class; `synthaug.adaptation.routes` lists them. A run is made from a
`Job` and advanced by iterating `advance()`, which yields `Progress`, writes the result into `job.out` and keeps
its state in `job.out/training`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from pydantic import AfterValidator, Field, field_validator

from synthaug.adaptation import sharding
from synthaug.adaptation.averages import NONE_KEPT, Averaging
from synthaug.adaptation.films import Films, Storage, quarter_of_memory
from synthaug.adaptation.loop import LoopRecipe, Route, StepRecord, Training
from synthaug.datasets.base import Radiographs
from synthaug.diffusion.card import Base
from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.device import choose_device, choose_dtype, dtype_name
from synthaug.diffusion.process_group import join
from synthaug.diffusion.schedule import SCHEDULERS
from synthaug.errors import UnknownNameError, UserError
from synthaug.findings import canonical
from synthaug.recipes import Recipe

# Names of findings in a recipe, by any alias; unknown ones are refused.
Findings = Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(canonical(name) for name in names))]

HALF = "bfloat16-weights"
PRECISIONS = {"float32": "no", "bfloat16": "bf16", HALF: "bf16"}


class SamplingDefaults(Recipe):
    """What `generate` does when it is not told otherwise; written into the checkpoint's card (see `CheckpointCard`)."""

    guidance_scale: float = Field(default=3.0, ge=1)
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    guidance_mean: float = Field(default=1.0, ge=0, le=1)
    noise_scale: float = Field(default=1.0, ge=0, le=2)
    num_inference_steps: int = Field(default=20, gt=0)
    scheduler: str = "dpmsolver++"
    negative_prompt: str = ""

    @field_validator("scheduler")
    @classmethod
    def _a_scheduler(cls, name: str) -> str:
        if name not in SCHEDULERS:
            raise UnknownNameError("scheduler", name, SCHEDULERS)
        return name


class RouteRecipe(Recipe):
    """Everything that decides the weights, films and base aside."""

    route: str
    findings: Findings = ("no_finding", "pleural_effusion")
    views: tuple[str, ...] = ("PA", "AP")
    minimum_age: int = Field(default=18, ge=0)
    attribution: str = ""


@dataclass(frozen=True)
class Execution:
    """How a run is executed; nothing here is part of the recipe.

    Attributes:
        device: "auto", "cpu", "cuda" or "mps".
        precision: "float32", "bfloat16" (autocast; master weights stay float32) or "bfloat16-weights" (the networks hold
            bfloat16 copies; see `synthaug.adaptation.masters`); None takes bfloat16 where the hardware multiplies it.
        optimizer: "adamw", or "adamw8bit" of bitsandbytes.
        compiled: compile the networks; pays after some hundred steps.
        micro_batch: films at once on a device; gradients add up to those of the whole batch.
        checkpointing: compute activations again in the backward pass instead of keeping them.
        film_memory: GB that the films may take in memory; beyond it they are mapped from the disk of `out`. None takes a
            quarter of the machine's.
        save_every: steps between saved states, sample grids and validation.
        max_steps: cut every training short, for a trial.
        part: of `from_scratch`: "autoencoder" or "unet" alone.
        averaging: whether averages are kept at each saved state, and of which length the result's is.
    """

    device: str = "auto"
    precision: str | None = None
    optimizer: str = "adamw"
    compiled: bool = False
    micro_batch: int | None = None
    checkpointing: bool = False
    film_memory: float | None = None
    save_every: int = 500
    max_steps: int | None = None
    part: str | None = None
    averaging: Averaging = NONE_KEPT

    @property
    def half(self) -> bool:
        """Whether the diffusion networks hold bfloat16 weights while they learn."""
        return self.precision == HALF

    def accelerator(self, **options: Any) -> Accelerator:
        """The processes and the device as accelerate sees them.

        Raises:
            UserError: no such device here, or an unknown precision.
        """
        place = choose_device(self.device)
        precision = self.precision
        if precision is None:
            found = dtype_name(choose_dtype(place))
            precision = found if found in PRECISIONS else "float32"
        if precision not in PRECISIONS:
            raise UserError(f"--precision {precision}: expected {', '.join(PRECISIONS)}")
        if self.film_memory is not None and self.film_memory < 0:
            raise UserError(f"--film-memory {self.film_memory:g}: expected GB, 0 or more")
        for name in ("micro_batch", "save_every", "max_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
        join(place)
        # Accelerate keeps its settings for the whole process and refuses others; the process group stays.
        AcceleratorState._reset_state()
        with patch_environment(accelerate_use_fsdp="false"):  # which `sharding` does
            return Accelerator(cpu=place.type == "cpu", mixed_precision=PRECISIONS[precision], **options)


@dataclass(frozen=True)
class Progress:
    """One step of one part: "autoencoder", "unet 1/2", ..."""

    part: str
    steps: int
    record: StepRecord


@dataclass(frozen=True)
class Job:
    """What a run is made from.

    Attributes:
        data: real radiographs.
        out: folder of the result.
        base: what is adapted, float32, on the CPU; None where a route starts from nothing.
        model: how the user named the base.
        text_encoder: folder or hub id of a text encoder, for `text_projection`.
        captions: key of a film -> texts that describe it.
        on_films: called with (films decoded, films in all).
        on_samples: called with (part, step, image size, checkpoint so far) for sample grids.
    """

    recipe: Any
    data: Sequence[Radiographs]
    out: Path
    accelerator: Accelerator
    execution: Execution = Execution()
    base: Checkpoint | None = None
    model: str = "embedded"
    text_encoder: str | None = None
    captions: dict[str, list[str]] = field(default_factory=dict)
    on_films: Callable[[int, int], None] | None = None
    on_samples: Callable[[str, int, int, Checkpoint], None] | None = None

    @property
    def storage(self) -> Storage:
        """Where the films lie."""
        given = self.execution.film_memory
        limit = quarter_of_memory() if given is None else int(given * 1e9)
        return Storage(self.out / "training", limit)


class Run(ABC):
    """One run of a route; `films` are held from the start.

    Attributes:
        divisible: whether the route's networks can be cut over processes; small ones are not.
        sharding: how they are; None if they are not.
    """

    films: Films
    divisible: ClassVar[bool] = False

    def __init__(self, job: Job):
        self.job = job
        self.state = job.out / "training"
        self.sharding = sharding.requested() if job.accelerator.num_processes > 1 else None
        if self.sharding and not self.divisible:
            raise UserError(
                f"--use_fsdp: route {job.recipe.route} trains networks that each device holds whole; start it without, "
                "as in `accelerate launch --multi_gpu`"
            )
        if self.sharding and job.execution.compiled:
            raise UserError(
                "--compile: not for networks that are cut over processes; leave it or --use_fsdp out"
            )

    @abstractmethod
    def advance(self) -> Iterator[Progress]:
        """Train what is not finished and write the result."""

    @abstractmethod
    def parameters(self) -> tuple[int, int]:
        """Number of trained parameters, and of all."""

    def base_facts(self) -> Base:
        """Name, identity and licence of the base, for the cards of what was made from it.

        Raises:
            UserError: the route starts from nothing.
        """
        base = self.job.base
        if base is None:
            raise UserError(f"route {self.job.recipe.route} has no base; give it with --model")
        return Base(name=base.name, sha256=base.sha256, license=base.card.license)

    def training(
        self,
        route: Route,
        recipe: LoopRecipe,
        home: Path,
        identity: Mapping[str, Any],
        rates: Mapping[str, float] | None = None,
        half: bool = True,
    ) -> Training:
        """The training of a route, executed as the job says.

        Args:
            home: folder of its state.
            identity, rates: as of `Training`.
            half: whether its networks may hold bfloat16 weights, where the execution asks for them.
        """
        how = self.job.execution
        return Training(
            route,
            recipe,
            home,
            identity,
            self.job.accelerator,
            rates,
            how.micro_batch,
            how.half and half,
            how.optimizer,
            how.averaging,
            self.sharding,
        )

    def facts(self) -> dict[str, Any]:
        """What the model card tells beyond recipe and films."""
        return {}
