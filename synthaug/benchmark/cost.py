"""How long a study takes here: a few films and steps are timed, the rest is counted.

Conventions: seconds of wall clock on this machine as loaded as it is now; cells that are there already cost nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthaug.benchmark import frozen
from synthaug.benchmark.drawing import Draw, Generator, adaptation, folder_of, seconds_a_film, seconds_a_step
from synthaug.benchmark.study import Cell, Study
from synthaug.detection.augment import augment
from synthaug.detection.detector import Detector, DetectorConfig, build_detector, uses_bf16
from synthaug.detection.logistic import fit_logistic
from synthaug.detection.predict import extract, predict
from synthaug.diffusion import load_checkpoint
from synthaug.diffusion.device import choose_device


@dataclass(frozen=True, slots=True)
class Cost:
    """Cells to be trained at one depth, and the seconds they take."""

    depth: str
    cells: int
    there: int
    seconds: float


def timed(work: Callable[[], object], repeats: int = 2) -> float:
    """Seconds of the quickest of `repeats` calls, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def costs(study: Study, out: str | Path, device: str = "auto") -> list[Cost]:
    """The cost of each depth of a study."""
    found = []
    for depth in study.recipe.grids:
        cells = {cell.name: cell for cell in study.cells if cell.depth == depth}
        left = [c for name, c in cells.items() if not (Path(out) / "cells" / f"{name}.json").is_file()]
        seconds = 0.0
        if left:
            seconds = _frozen(study, left, device) if depth == "frozen" else _full(study, left, device)
        found.append(Cost(depth, len(left), len(cells) - len(left), seconds))
    return found


def generator_costs(
    generator: Generator,
    model: str | Path,
    finding: str,
    arms: Sequence[tuple[Draw, Any]] | None,
    out: str | Path,
    device: str = "auto",
) -> list[Cost]:
    """What the synthetic films cost: drawing them, and for a closed claim adapting a generator for each draw's films.

    Arguments: `arms` the films of each draw for a closed claim, None for a ready generator. A class image of prior preservation
    counts as a film.
    """
    out = Path(out)
    folders = [out / "synthetic"] if arms is None else [folder_of(out, one) / "films" for one, _ in arms]
    left = [folder for folder in folders if not (folder / "absent" / "manifest.json").is_file()]
    if not left:
        return [Cost("generators", 0, len(folders), 0.0)]
    film = seconds_a_film(load_checkpoint(model, device))
    seconds = len(left) * 2 * generator.count * film
    if arms:
        recipe: Any = adaptation(generator, finding, 0)
        prior = recipe.prior.count if recipe.prior is not None else 0
        each = seconds_a_step(recipe, arms[0][1], model, device) * recipe.training.steps
        seconds += len(left) * (each + prior * film)
    return [Cost("generators", len(left), len(folders) - len(left), seconds)]


def _frozen(study: Study, cells: list[Cell], device: str) -> float:
    recipe, material = study.recipe, study.material["frozen"]
    detector, _ = frozen.open_extractor(recipe.extractor, recipe.image_size, device=device)
    some = material.judge.images[:8]
    films = sum(len(side) for side in material.sides().values())
    films += len(material.training) * any(cell.arm == "augmented" for cell in cells)
    each = timed(lambda: extract(detector, some)) / len(some)
    width = extract(detector, some[:1]).shape[1]
    # One fit of a middling size stands for all: the search takes about as many steps whatever the films.
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(400, width)), np.arange(400) % 2
    fit = timed(lambda: fit_logistic(features, labels, 0.01), 1) / 400
    trained_on = sum(len(p.indices) for cell in cells for stage in study.cells[cell] for p in stage)
    return films * each + fit * trained_on * len(recipe.strengths)


def _full(study: Study, cells: list[Cell], device: str) -> float:
    recipe, material = study.recipe.train, study.material["full"]
    place = choose_device(device)
    config = DetectorConfig(arch=recipe.arch, findings=("no_finding",), image_size=recipe.image_size)
    detector = build_detector(config, seed=0).to(place, memory_format=torch.channels_last)
    batch = torch.from_numpy(
        np.resize(material.training.images, (recipe.batch_size, *material.training.images.shape[1:]))
    )

    def step() -> None:
        moved = augment(batch.to(place), recipe.augmentation, torch.Generator().manual_seed(0))
        detector.train()
        _forward(detector, moved).backward()

    each = timed(step, 1)
    some = material.judge.images[:8]
    look = timed(lambda: predict(detector.eval(), some), 1) / len(some)
    looks = -(-recipe.steps // recipe.validate_every) + 3
    return len(cells) * (
        recipe.steps * each + look * (looks * len(material.validation) + len(material.judge))
    )


def _forward(detector: Detector, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=uses_bf16(detector, images.device)):
        return detector(images.contiguous(memory_format=torch.channels_last)).float().square().mean()


def in_words(found: list[Cost]) -> str:
    """The costs as lines."""
    lines = [
        f"{cost.depth}: {cost.cells} {'to make' if cost.depth == 'generators' else 'cells to train'}, {cost.there} there "
        f"already, about {_span(cost.seconds)}"
        for cost in found
    ]
    return "\n".join(
        [
            *lines,
            f"in all about {_span(sum(cost.seconds for cost in found))} on this machine as it is loaded now",
        ]
    )


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
