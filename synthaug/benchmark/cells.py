"""The cells of a study as the job of an engine: each is trained by one worker; its score comes back and is written by the driver.

Detectors of depth "full" lie in `OUT/detectors`, which all workers must share.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from synthaug.benchmark import frozen, trained
from synthaug.benchmark.arms import Source, Stage
from synthaug.benchmark.frozen import Features, Score
from synthaug.benchmark.material import Material
from synthaug.engines import Work
from synthaug.generation.execution import device_kind

if TYPE_CHECKING:
    from synthaug.benchmark.study import Cell, StudyRecipe


@dataclass(frozen=True)
class Frozen:
    """What the cells of depth "frozen" need: features, the labels of each source, and those of validation."""

    features: Features
    labels: Mapping[Source, np.ndarray]
    validation: np.ndarray


@dataclass(frozen=True)
class Cells:
    """The job whose tasks are cells.

    Args:
        recipe: of the study.
        plans: the stages of each cell.
        frozen, full: what each depth needs; None where no cell of it is left.
        out: the study's folder.
        device, threads: of each worker.
    """

    recipe: "StudyRecipe"
    plans: Mapping["Cell", Sequence[Stage]]
    frozen: Frozen | None
    full: Material | None
    out: Path
    device: str
    threads: int

    def kind(self) -> str:
        """The device of this process."""
        return device_kind(self.device)

    def open(self) -> Work:
        """See `synthaug.engines.Job`."""
        torch.set_num_threads(self.threads)
        return self._run

    def _run(self, cell: "Cell") -> Generator[int, None, Score]:
        """Train a cell; yields the steps that are taken."""
        if cell.depth == "frozen":
            if self.frozen is None:
                raise RuntimeError("a frozen cell without features")
            given = self.frozen
            return frozen.run_cell(
                self.plans[cell], given.features, dict(given.labels), given.validation, self.recipe.strengths
            )
        if self.full is None:
            raise RuntimeError("a full cell without films")
        wanted = self.recipe.train.model_copy(update={"seed": cell.seed, "findings": (self.recipe.finding,)})
        folder = self.out / "detectors" / cell.name
        taken = trained.run_cell(
            cell.arm, self.plans[cell], self.full, wanted, self.recipe.strong, folder, self.device
        )
        for number, step in enumerate(taken, 1):
            if isinstance(step, Score):
                return step
            yield number
        raise RuntimeError(f"{cell.name} ended without a score")
