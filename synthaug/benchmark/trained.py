"""Depth "full": a detector trained for each cell, with equal steps and, within a draw, equal initial weights.

`pretrained` spends half of its steps on synthetic films and half on real ones, each half with its own warm-up and decay.

A detector is trained in a folder of its worker and then moved, as shards are (`synthaug.generation.writing`): a worker that is
taken for dead may still train the cell that another one has begun anew. What it saves on its way is moved too, and whoever
begins the cell anew goes on from there.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from synthaug.benchmark.arms import Source, Stage
from synthaug.benchmark.frozen import Score
from synthaug.benchmark.material import Material
from synthaug.detection.augment import Augmentation
from synthaug.detection.detector import load_detector
from synthaug.detection.films import Films
from synthaug.detection.predict import predict
from synthaug.detection.train import StepRecord, TrainRecipe, train_detector
from synthaug.detection.training_state import FILE as STATE
from synthaug.generation.writing import own_folder, publish

CONFIG = "config.json"  # written last: what is in a folder that has it is whole


def join(*parts: Films) -> Films:
    """Films one after another."""
    return replace(
        parts[0],
        images=np.concatenate([p.images for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        patients=tuple(name for p in parts for name in p.patients),
        keys=tuple(name for p in parts for name in p.keys),
    )


def stage_films(stage: Stage, material: Material) -> Films:
    """The films of a stage. Augmented films are the real ones: how strongly is the recipe's matter, not the films'."""
    sources: dict[Source, Films | None] = {
        "real": material.training,
        "synthetic": material.synthetic,
        "generator": material.generator,
    }
    parts = []
    for portion in stage:
        films = sources.get(portion.source)
        if films is not None:
            parts.append(films.subset(portion.indices))
    return join(*parts)


def cell_recipes(
    arm: str, stages: Sequence[Stage], recipe: TrainRecipe, strong: Augmentation
) -> list[TrainRecipe]:
    """The recipe of each stage: the steps are shared among the stages, `augmented` has the stronger augmentation."""
    if arm == "augmented":
        recipe = recipe.model_copy(update={"augmentation": strong})
    first = recipe.steps // len(stages)
    steps = [first] * (len(stages) - 1) + [recipe.steps - first * (len(stages) - 1)]
    return [recipe.model_copy(update={"steps": count}) for count in steps]


def run_cell(
    arm: str,
    stages: Sequence[Stage],
    material: Material,
    recipe: TrainRecipe,
    strong: Augmentation,
    folder: Path,
    device: str = "auto",
) -> Iterator[StepRecord | Score]:
    """Train a cell, one record a step, and its score last; what was begun in `folder` goes on where it stopped."""
    begin_from: Path | None = None
    for number, (stage, wanted) in enumerate(
        zip(stages, cell_recipes(arm, stages, recipe, strong), strict=True)
    ):
        out = folder / f"stage-{number}" if number < len(stages) - 1 else folder
        if not (out / CONFIG).is_file():
            out.mkdir(parents=True, exist_ok=True)
            with own_folder(folder.parent) as own:
                films, validation = stage_films(stage, material), material.validation
                yield from _train(films, validation, wanted, Path(own), out, device, begin_from)
        begin_from = out
    detector = load_detector(folder, device)
    yield Score(
        detector.config.threshold(recipe.findings[0] if recipe.findings else ""),
        predict(detector, material.validation.images)[:, 0],
        predict(detector, material.judge.images)[:, 0],
        f"start {detector.config.start}",
    )


def _train(
    films: Films,
    validation: Films,
    recipe: TrainRecipe,
    own: Path,
    out: Path,
    device: str,
    begin_from: Path | None,
) -> Iterator[StepRecord]:
    """Train a detector in `own` and move it to `out`; of two workers the first one's detector stays."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(out / STATE, own)
    for record in train_detector(
        films, None, recipe, own, validation=validation, device=device, begin_from=begin_from
    ):
        if (own / STATE).is_file() and not (out / CONFIG).is_file():
            publish(own, out, STATE)
        yield record
    if not (out / CONFIG).is_file():
        publish(own, out, "README.md", "model.safetensors", CONFIG)
    (out / STATE).unlink(missing_ok=True)
