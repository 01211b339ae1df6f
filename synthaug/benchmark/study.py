"""Run a utility study: arms x sizes x draws at one or two depths, resumable cell by cell, then the figures.

Conventions: a cell is one arm at one size in one draw (a subset of the real films and a training seed together); cells of one
draw start from the same weights and take the same number of steps; whatever is chosen is chosen on the same real validation
films in every arm. `OUT/study.json` says what a study is made of; a cell's scores stand in `OUT/cells/`, features of films in
`OUT/features/`, so the same call goes on where it stopped, and more arms, sizes or seeds only add cells.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from synthaug.benchmark import frozen
from synthaug.benchmark.arms import (
    ARMS,
    Lacking,
    Portion,
    Size,
    Stage,
    check_arm,
    stages,
    subset,
    uses_synthetic,
)
from synthaug.benchmark.cells import Cells, Frozen
from synthaug.benchmark.drawing import Draw, Generator, arms_films
from synthaug.benchmark.folder import claim_folder, describe_films, path_of, write_score
from synthaug.benchmark.frozen import STRENGTHS
from synthaug.benchmark.material import Judge, Material, gather
from synthaug.benchmark.toy import toy_material
from synthaug.detection.augment import Augmentation
from synthaug.detection.train import TrainRecipe
from synthaug.diffusion.device import choose_device
from synthaug.engines import Done, Engine, Local, Lost
from synthaug.errors import DataError, RecipeError
from synthaug.generation.writing import sweep
from synthaug.recipes import Recipe
from synthaug.shards import lock

Depth = Literal["frozen", "full"]
STRONG = Augmentation(
    rotation=20, scale=(0.75, 1.35), shift=0.12, contrast=0.5, brightness=0.2, gamma=0.5, blur=0.5
)


class Grid(BaseModel):
    """Arms and numbers of real films a label; every arm at every size."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    arms: tuple[str, ...] = ARMS
    sizes: tuple[Size, ...] = (10, 25, 50, 100, 250, "all")

    @field_validator("arms")
    @classmethod
    def _known(cls, arms: tuple[str, ...]) -> tuple[str, ...]:
        for arm in arms:
            check_arm(arm)
        return arms if "real" in arms else ("real", *arms)

    @field_validator("sizes")
    @classmethod
    def _positive(cls, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
        if not sizes or any(size != "all" and size < 2 for size in sizes):
            raise ValueError('expected "all" or 2 or more films a label')
        return sizes


class StudyRecipe(Recipe):
    """What a utility study is to do."""

    finding: str = "pleural_effusion"
    claim: Literal["closed", "transfer", "demonstration"] = "transfer"
    judge: Judge = "test"
    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1, description="one draw each")
    frozen: Grid | None = Grid()
    full: Grid | None = None
    extractor: str = Field(default="imagenet", description='"imagenet", "embedded" or a detector folder')
    image_size: int = Field(
        default=224, ge=32, description="of the frozen network, where it has none of its own"
    )
    strengths: tuple[float, ...] = Field(default=STRENGTHS, min_length=1)
    strong: Augmentation = STRONG
    train: TrainRecipe = TrainRecipe(
        image_size=160,
        start="imagenet",
        steps=240,
        batch_size=16,
        validate_every=60,
        learning_rate=5e-4,
        ema=0.98,
    )
    drop_leaks: bool = False
    generator: Generator | None = Field(
        default=None, description="draws the synthetic films of the study itself"
    )

    @property
    def draws(self) -> list[Draw]:
        """Every (size, seed) of the grids, each once: so many generators a closed claim adapts."""
        sizes = dict.fromkeys(size for grid in self.grids.values() for size in grid.sizes)
        return [(size, seed) for size in sizes for seed in self.seeds]

    @property
    def adapted_inside(self) -> bool:
        """Whether each draw has a generator of its own."""
        return self.generator is not None and self.claim == "closed"

    @property
    def grids(self) -> dict[Depth, Grid]:
        """The grids that are to be run, by depth."""
        both: dict[Depth, Grid | None] = {"frozen": self.frozen, "full": self.full}
        return {depth: grid for depth, grid in both.items() if grid is not None}


FULL = Grid(arms=("real", "synthetic", "real+100%", "augmented"), sizes=(50, "all"))
DEMONSTRATION = StudyRecipe(
    claim="demonstration",
    seeds=(0, 1, 2),
    frozen=Grid(sizes=(5, 10, "all")),
    full=Grid(arms=("real", "real+100%", "pretrained"), sizes=(10,)),
    extractor="random:resnet10t",
    image_size=64,
    train=TrainRecipe(
        arch="resnet10t",
        image_size=64,
        steps=40,
        batch_size=16,
        validate_every=20,
        learning_rate=2e-3,
        ema=0.9,
    ),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm at one size in one draw, at one depth.

    `synthetic` is the same cell at every size, unless each size has films of its own (`own_films`).
    """

    depth: Depth
    arm: str
    size: Size
    seed: int
    own_films: bool = False

    @property
    def name(self) -> str:
        """The name of its file, without suffix."""
        size = "any" if self.arm == "synthetic" and not self.own_films else str(self.size)
        return f"{self.depth}-{self.arm}-{size}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a study is: `done` of `total` cells, and what it is at."""

    done: int
    total: int
    note: str


@dataclass(frozen=True, slots=True)
class Study:
    """A study about to run: its films at each depth, the cells that they allow, and why the others are not there."""

    recipe: StudyRecipe
    material: dict[Depth, Material]
    cells: dict[Cell, tuple[Stage, ...]]
    reasons: dict[tuple[Depth, str, Size], str]


def open_study(
    real: Any | None = None,
    synthetic: Sequence[Any] | None = None,
    generator: Any | None = None,
    recipe: StudyRecipe | None = None,
) -> Study:
    """Decode and guard the films and lay out the cells.

    Arguments: `real` a data set of real films; `synthetic` synthetic ones, read as one; `generator` the films that the
    generator was trained on; without `real`, a demonstration on drawn toy pictures. Raises `DataError` where films leak or
    cannot carry the study.
    """
    recipe = recipe or (DEMONSTRATION if real is None else StudyRecipe())
    if real is None and synthetic:
        raise DataError("--synthetic without --real: utility is measured on real test films; pass --real DIR")
    if real is None and recipe.claim != "demonstration":
        raise DataError(
            f"claim {recipe.claim!r} without --real: only a demonstration runs without real films"
        )
    if not recipe.grids:
        raise RecipeError("a study without a grid: give `frozen`, `full` or both")
    if recipe.adapted_inside and recipe.drop_leaks:
        raise RecipeError(
            "drop_leaks: generators are adapted on the arms' own films, so leaking films must be gone before; leave "
            "--drop-leaks out and take them out of the folder first (`synthaug dedupe`, `synthaug split`)"
        )
    if recipe.claim == "closed" and not recipe.adapted_inside:
        for depth, grid in recipe.grids.items():
            if grid.sizes != ("all",):
                raise RecipeError(
                    f"{depth}.sizes {list(grid.sizes)}: a closed claim holds where the real arm has all of the generator's "
                    "own films; pass --sizes all, or --model BASE to adapt one inside each arm"
                )
    draws = None
    if recipe.adapted_inside and synthetic:
        draws = [draw for draw, _ in arms_films(real, recipe.finding, recipe.judge, recipe.draws)]
    held: dict[tuple[int, str], Material] = {}
    material: dict[Depth, Material] = {}
    for depth in recipe.grids:
        size, fit = _films_of(recipe, depth)
        if (size, fit) not in held:
            held[size, fit] = (
                toy_material(recipe.finding, size)
                if real is None
                else gather(
                    real,
                    synthetic,
                    generator,
                    recipe.finding,
                    size,
                    fit,
                    recipe.claim,
                    recipe.judge,
                    recipe.drop_leaks,
                    draws,
                )
            )
        material[depth] = held[size, fit]
    return lay_out(recipe, material)


def _films_of(recipe: StudyRecipe, depth: Depth) -> tuple[int, Any]:
    """Image size and fit of a depth."""
    if depth == "full":
        return recipe.train.image_size, recipe.train.fit
    if recipe.extractor == "imagenet" or recipe.extractor.startswith("random:"):
        return recipe.image_size, "crop"
    config = frozen.load_detector(recipe.extractor).config
    return config.image_size, config.fit


def lay_out(recipe: StudyRecipe, material: dict[Depth, Material]) -> Study:
    """The cells of a study, draw by draw, and the reason of each arm that the films cannot make up."""
    cells: dict[Cell, tuple[Stage, ...]] = {}
    reasons: dict[tuple[Depth, str, Size], str] = {}
    for depth, grid in recipe.grids.items():
        films = material[depth]
        for seed in recipe.seeds:
            for size in grid.sizes:
                for arm in grid.arms:
                    try:
                        found = _stages(films, arm, size, seed)
                    except Lacking as lack:
                        reasons[depth, arm, size] = str(lack)
                    else:
                        own = films.pools is not None and arm == "synthetic"
                        cells[Cell(depth, arm, size, seed, own)] = found
    if not any(cell.arm == "real" for cell in cells):
        raise DataError(f"no size can be run: {next(iter(reasons.values()))}; pass smaller --sizes")
    return Study(recipe, material, cells, reasons)


def _stages(films: Material, arm: str, size: Size, seed: int) -> tuple[Stage, ...]:
    """What a cell is trained on; of the synthetic films those that its draw's own generator drew, where there is one."""
    if films.pools is None or films.synthetic is None:
        return stages(arm, size, seed, films.training, films.synthetic, films.generator)
    pool = films.pools.get((size, seed))
    if pool is None and uses_synthetic(arm):
        subset(films.training, size, seed)
        raise Lacking(f"no generator was adapted on {size} films a label in draw {seed}")
    pool = np.arange(0) if pool is None else pool
    found = stages(arm, size, seed, films.training, films.synthetic.subset(pool), films.generator)
    return tuple(
        tuple(
            Portion("synthetic", pool[part.indices]) if part.source == "synthetic" else part for part in stage
        )
        for stage in found
    )


def run_study(
    study: Study,
    out: str | Path,
    device: str = "auto",
    engine: Engine | None = None,
    threads: int | None = None,
) -> Iterator[Progress]:
    """Train every cell that is not there yet, in this process or by the workers of an engine, of `threads` CPU threads each.

    Raises `OutputFolderError` where `out` holds another study, or another process is at it.
    """
    out = Path(out)
    with lock(out):
        sweep(out / "detectors")
        yield from _run(study, out, device, engine, threads)


def _run(
    study: Study, out: Path, device: str, engine: Engine | None, threads: int | None
) -> Iterator[Progress]:
    claim_folder(study, out)
    (out / "cells").mkdir(exist_ok=True)
    describe_films(study, out)
    left: dict[str, Cell] = {}
    total, there = len({cell.name for cell in study.cells}), set[str]()
    for cell in study.cells:
        if not path_of(cell, out).is_file():
            left.setdefault(cell.name, cell)
        elif cell.name not in there:
            there.add(cell.name)
            yield Progress(len(there), total, f"{cell.name}: there already")
    done = len(there)
    depths = {cell.depth for cell in left.values()}
    given = None
    if "frozen" in depths:
        yield Progress(done, total, "features")
        films = study.material["frozen"]
        given = Frozen(_features(study, out, device), _labels(films), films.validation.labels[:, 0])
    engine = engine or Local(lambda: choose_device("auto").type)
    where = engine.device(device)
    threads = threads or engine.threads(where, torch.get_num_threads())
    full = study.material["full"] if "full" in depths else None
    plans = {cell: study.cells[cell] for cell in left.values()}
    job = Cells(study.recipe, plans, given, full, out.resolve(), where, threads)
    with closing(engine.run(job, left.values(), threads, where)) as events:
        for event in events:
            name = event.task.name
            if isinstance(event, Done):
                write_score(event.result, path_of(event.task, out))
                done += 1
                yield Progress(done, total, name)
            elif isinstance(event, Lost):
                yield Progress(done, total, f"{name}: begun anew, its worker died")
            else:
                yield Progress(done, total, f"{name}: step {event.count} of {study.recipe.train.steps}")


def _features(study: Study, out: Path, device: str) -> frozen.Features:
    recipe = study.recipe
    detector, name = frozen.open_extractor(recipe.extractor, recipe.image_size, device=device)
    strong = recipe.strong if any(c.depth == "frozen" and c.arm == "augmented" for c in study.cells) else None
    return frozen.extract_all(study.material["frozen"], detector, name, out / "features", strong)


def _labels(material: Material) -> dict[Any, np.ndarray]:
    held = {"real": material.training, "synthetic": material.synthetic, "generator": material.generator}
    labels = {source: films.labels[:, 0] for source, films in held.items() if films is not None}
    return {**labels, "augmented": material.training.labels[:, 0]}
