"""Run a utility study: arms x seeds, resumable cell by cell, then the figures on the same real test films.

Conventions: a cell is one arm with one seed; cells of one seed start from the same weights and take the same number of
steps; checkpoint and threshold are chosen on the same real validation films in every arm. A cell's scores stand in
`OUT/cells/ARM-SEED.json`, so the same call again goes on where it stopped.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from synthaug.benchmark.arms import Study, build_arms, one_finding, real_parts
from synthaug.benchmark.toy import toy_parts
from synthaug.detection.detector import load_detector
from synthaug.detection.films import Films, hold
from synthaug.detection.predict import predict
from synthaug.detection.train import StepRecord, TrainRecipe, train_detector
from synthaug.errors import DataError
from synthaug.evaluation.intervals import Statistic, crossed_bootstrap, estimate
from synthaug.evaluation.results import Metric, Results, missing, table
from synthaug.recipes import Recipe
from synthaug.shards import atomic_write

CLAIMS = {
    "closed": "closed: the generator was adapted on the real arm's own films only, and its base never saw the finding",
    "transfer": "transfer: a ready generator that saw other films; its control is real + the generator's training films",
    "demonstration": "DEMONSTRATION on drawn toy pictures: it shows the procedure and is no evidence of anything",
}
STATISTICS: tuple[Statistic, ...] = ("AUROC", "accuracy", "balanced accuracy")
COMPARED = (("mixed", "real"), ("synthetic", "real"), ("mixed", "control"))


class StudyRecipe(Recipe):
    """What a utility study is to do."""

    finding: str = "pleural_effusion"
    claim: Literal["closed", "transfer", "demonstration"] = "transfer"
    seeds: tuple[int, ...] = (0, 1, 2)
    synthetic_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="of the mixed arm; default: all films"
    )
    replicates: int = Field(default=2000, ge=100)
    train: TrainRecipe = TrainRecipe()


DEMONSTRATION = StudyRecipe(
    claim="demonstration",
    seeds=(0, 1),
    replicates=500,
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
class StudyRecord:
    """One training step of one cell; `record` is None where the cell was already there."""

    arm: str
    seed: int
    cell: int
    cells: int
    record: StepRecord | None


def run_study(
    real: Any | None = None,
    synthetic: Any | None = None,
    out: str | Path = "benchmark",
    recipe: StudyRecipe | None = None,
    device: str = "auto",
) -> Iterator[StudyRecord]:
    """Train every cell, then write `results.json` and `results.md` to `out`.

    Arguments: `real` a data set of real films (its parts come from the first-day split, or from a split by patient);
    `synthetic` one or more synthetic data sets; without `real`, a demonstration on drawn toy pictures.
    Raises `DataError` where the films cannot carry the study. Yields one record a training step.
    """
    if real is None:
        if synthetic is not None:
            raise DataError(
                "--synthetic without --real: utility is measured on real test films; pass --real DIR"
            )
        recipe = recipe or DEMONSTRATION
        if recipe.claim != "demonstration":
            raise DataError(
                f"claim {recipe.claim!r} without --real: only a demonstration runs without real films"
            )
        study = build_arms(
            *toy_parts(recipe.finding, recipe.train.image_size), recipe.synthetic_fraction, recipe.claim
        )
    else:
        recipe = recipe or StudyRecipe()
        size, fit = recipe.train.image_size, recipe.train.fit
        drawn = (
            None
            if synthetic is None
            else one_finding(hold(synthetic, size, (recipe.finding, "no_finding"), fit), recipe.finding)
        )
        study = build_arms(
            real_parts(real, size, recipe.finding, fit), drawn, recipe.synthetic_fraction, recipe.claim
        )
    return _run(study, recipe, Path(out), device)


def _run(study: Study, recipe: StudyRecipe, out: Path, device: str) -> Iterator[StudyRecord]:
    cells = [(arm, seed) for seed in recipe.seeds for arm in study.arms]
    done: dict[tuple[str, int], dict[str, Any]] = {}
    for number, (arm, seed) in enumerate(cells):
        train = recipe.train.model_copy(update={"seed": seed, "findings": (recipe.finding,)})
        films, path = study.arms[arm], out / "cells" / f"{arm}-{seed}.json"
        identity = {
            "train": train.digest(),
            "films": films.digest(),
            "validation": study.validation.digest(),
            "test": study.test.digest(),
        }
        stored = _stored(path, identity)
        if stored is None:
            folder = out / "cells" / f"{arm}-{seed}"
            for record in train_detector(
                films, None, train, folder, validation=study.validation, device=device
            ):
                yield StudyRecord(arm, seed, number, len(cells), record)
            detector = load_detector(folder, device)
            scores = predict(detector, study.test.images)[:, 0]
            stored = {
                **identity,
                "threshold": detector.config.threshold(recipe.finding),
                "scores": scores.tolist(),
            }
            atomic_write(path, json.dumps(stored).encode())
        else:
            yield StudyRecord(arm, seed, number, len(cells), None)
        done[arm, seed] = stored
    results = conclude(study, recipe, done)
    results.write(out)
    text = f"{results.protocol}\n\n{table(results.metrics)}\n\n{verdict(results)}\n"
    atomic_write(out / "results.md", text.encode())


def _stored(path: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """A finished cell of the same recipe and films."""
    if not path.is_file():
        return None
    cell: dict[str, Any] = json.loads(path.read_bytes())
    return cell if all(cell.get(key) == value for key, value in identity.items()) else None


def conclude(study: Study, recipe: StudyRecipe, cells: dict[tuple[str, int], dict[str, Any]]) -> Results:
    """The figures of finished cells: every arm, and the paired differences between arms."""
    scores = {arm: np.array([cells[arm, seed]["scores"] for seed in recipe.seeds]) for arm in study.arms}
    cuts = {arm: [float(cells[arm, seed]["threshold"]) for seed in recipe.seeds] for arm in study.arms}
    labels, patients = study.test.labels[:, 0], study.test.patients
    metrics: list[Metric] = []
    for name in STATISTICS:
        facts: dict[str, Any] = {"finding": recipe.finding, "n": len(labels)}
        values, draws = crossed_bootstrap(scores, labels, patients, name, cuts, recipe.replicates)
        for arm in study.arms:
            found = estimate(values[arm], draws[arm])
            metrics.append(
                Metric(name=name, arm=arm, value=found.value, low=found.low, high=found.high, **facts)
            )
        metrics += [
            missing(name, reason, finding=recipe.finding, arm=arm) for arm, reason in study.reasons.items()
        ]
        for one, other in COMPARED:
            if one in values and other in values:
                gap = estimate(values[one] - values[other], draws[one] - draws[other])
                arm = f"{one} - {other}"
                metrics.append(
                    Metric(
                        name=f"{name} difference",
                        arm=arm,
                        value=gap.value,
                        low=gap.low,
                        high=gap.high,
                        **facts,
                    )
                )
                metrics.append(_smallest(name, arm, gap.detectable, facts))
    settings = {
        "recipe": recipe.values(),
        "arms": {arm: _counts(films) for arm, films in study.arms.items()},
        "validation": _counts(study.validation),
        "test": _counts(study.test),
        "interval": "95 %, patients resampled, crossed with seeds"
        if len(recipe.seeds) > 1
        else "95 %, patients only: one seed",
    }
    return Results(kind="benchmark", protocol=CLAIMS[recipe.claim], settings=settings, metrics=metrics)


def _smallest(name: str, arm: str, value: float, facts: dict[str, Any]) -> Metric:
    label = f"{name} difference, smallest that could have been shown"
    if not np.isfinite(value):
        return missing(label, "too few patients to resample", arm=arm, **facts)
    return Metric(name=label, arm=arm, value=value, **facts)


def _counts(films: Films) -> dict[str, int]:
    present = int((films.labels == 1).sum())
    return {"present": present, "absent": len(films) - present, "patients": len(set(films.patients))}


def verdict(results: Results) -> str:
    """One sentence for each comparison of AUROC, with the smallest effect that the design could have shown."""
    lines = []
    for metric in results.metrics:
        if metric.name != "AUROC difference" or metric.value is None:
            continue
        limit = results.find("AUROC difference, smallest that could have been shown", arm=metric.arm)
        if metric.low is None or metric.high is None or limit.value is None:
            lines.append(f"{metric.arm}: {metric.value:+.3f}, without an interval.")
            continue
        said = "a gain" if metric.low > 0 else "a loss" if metric.high < 0 else "no difference shown"
        lines.append(
            f"{metric.arm}: {said}, {metric.value:+.3f} AUROC ({metric.low:+.3f} to {metric.high:+.3f}); "
            f"an effect below {limit.value:.3f} could not have been shown here."
        )
    return "\n".join(lines) or "No two arms to compare."
