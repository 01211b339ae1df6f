"""The synthetic films of a study, drawn by the study itself: one ready generator, or one adapted inside each arm.

    OUT/synthetic/present  absent                  claim "transfer": `count` films of each label by the generator as it is
    OUT/generators/10-0                            claim "closed": adapted on the real arm's own films, of size 10 in draw 0
    OUT/generators/10-0/films/present  absent      and what that generator draws; they serve cells of that size and draw alone

Conventions: a draw's generator learns from exactly the films of its real arm, so no label is used that the real arm lacks, and it
meets validation and judge no more than they do. By its card, the base's prompts must never have held the finding. The same call
resumes.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution, RouteRecipe
from synthaug.adaptation.routes import load_recipe
from synthaug.benchmark.arms import Lacking, Size, subset
from synthaug.benchmark.material import one_finding, real_parts
from synthaug.datasets.synthetic import SyntheticRadiographs
from synthaug.detection.films import Films
from synthaug.diffusion import Checkpoint, load_checkpoint, sample
from synthaug.errors import DataError
from synthaug.generation.generate import generate

Draw = tuple[Size, int]  # size of the real arm, and seed


class Generator(BaseModel):
    """Where a study's synthetic films come from; the checkpoint by name and SHA-256, `adapt` and `overrides` for "closed"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    count: int = Field(default=200, ge=2, description="films a label")
    adapt: str | None = None
    overrides: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Told:
    """What is being drawn or learnt, and how far it is."""

    done: int
    total: int
    note: str


def open_generator(
    model: str | Path, count: int, adapt: str | None, overrides: Mapping[str, Any], finding: str, claim: str
) -> Generator:
    """The facts of a generator, once it is sure that it may serve the claim.

    Raises `DataError` where the claim is closed and the base saw the finding, or transfer and it does not draw it.
    """
    checkpoint = load_checkpoint(model, "cpu", "float32")
    card = checkpoint.card
    # What a card refuses to draw, its prompts held too; what it saw beside, nobody may have named to it.
    saw = tuple(dict.fromkeys((*checkpoint.findings, *card.refused, *card.seen)))
    if claim == "closed" and card.route != "foreign" and finding in saw:
        raise DataError(
            f"--claim closed: {checkpoint.name} was trained on {finding}, so it is no base that never saw it; it saw "
            f"{', '.join(saw)}. Choose another --finding, another --model, or --claim transfer"
        )
    if claim != "closed" and card.route != "foreign" and finding not in checkpoint.findings:
        raise DataError(
            f"--model {checkpoint.name}: does not know {finding}; it knows {', '.join(checkpoint.findings)}. "
            "`--claim closed` adapts it inside the arms"
        )
    return Generator(
        name=checkpoint.name,
        sha256=checkpoint.sha256,
        count=count,
        adapt=(adapt or "lora_few_shot") if claim == "closed" else None,
        overrides=dict(overrides) if claim == "closed" else {},
    )


def films_of(folder: Path, finding: str) -> list[SyntheticRadiographs]:
    """The drawn films with the finding and without any."""
    return [SyntheticRadiographs(folder / name, (finding, "no_finding")) for name in ("present", "absent")]


def draw(
    model: str | Path, finding: str, count: int, folder: Path, seed: int = 0, device: str = "auto"
) -> Iterator[Told]:
    """Draw `count` films with the finding into `folder/present` and as many without any into `folder/absent`."""
    for number, (name, label) in enumerate((("present", finding), ("absent", "no_finding"))):
        yield Told(number, 2, f"drawing {count} films of {label}")
        noise = 2 * seed + number
        generate(label, count=count, seed=noise, out=folder / name, model=model, device=device)


def adaptation(generator: Generator, finding: str, seed: int) -> RouteRecipe:
    """The recipe that adapts inside an arm: the packaged one, on all films of the arm, with the draw's seed."""
    fixed = {
        "findings": ["no_finding", finding],
        "per_finding": None,
        "validation": 0.0,
        "training.seed": seed,
    }
    return load_recipe(generator.adapt or "", {**fixed, **generator.overrides})


def arms_films(real: Any, finding: str, judge: Any, draws: Sequence[Draw]) -> Iterator[tuple[Draw, Any]]:
    """The data set of each draw's real arm, by the same choice of films as the study's own cells.

    A draw for which the films do not suffice is left out: its cells say so themselves.
    """
    training = real_parts(real, judge)[0]["train"]
    labels = np.stack([training.column(finding), training.column("no_finding")], 1)
    blank = np.zeros((len(training), 1, 1, 1), np.uint8)
    patients = tuple(str(i) for i in range(len(training)))
    held = Films(blank, labels, (finding, "no_finding"), patients, tuple(training.keys))
    asked = one_finding(held, finding)
    for size, seed in draws:
        try:
            chosen = subset(asked, size, seed)
        except Lacking:
            continue
        yield (size, seed), training.subset([int(asked.patients[i]) for i in chosen])


def adapt_inside(
    generator: Generator,
    model: str | Path,
    arms: Sequence[tuple[Draw, Any]],
    finding: str,
    out: Path,
    device: str = "auto",
) -> Iterator[Told]:
    """Adapt and draw for the films of each arm (`arms_films`); what is there already is kept."""
    for number, ((size, seed), films) in enumerate(arms):
        folder = folder_of(out, (size, seed))
        recipe = adaptation(generator, finding, seed)
        where = f"generator {number + 1} of {len(arms)}, {size} films a label, draw {seed}"
        if not (folder / "README.md").is_file():
            for step in adapt(recipe, [films], folder, model=str(model), execution=Execution(device=device)):
                yield Told(step.record.step, step.steps, f"{where}: adapting")
        for told in draw(folder, finding, generator.count, folder / "films", seed, device):
            yield Told(told.done, told.total, f"{where}: {told.note}")


def folder_of(out: Path, draw: Draw) -> Path:
    """Where the generator of a draw lies."""
    return out / "generators" / f"{draw[0]}-{draw[1]}"


@dataclass(frozen=True, slots=True)
class Planned:
    """Films that are yet to be drawn, for a dry run: noise with the labels they will have."""

    finding: str
    present: bool
    count: int
    number: int

    @property
    def findings(self) -> tuple[str, ...]:
        return self.finding, "no_finding"

    @property
    def labels(self) -> np.ndarray:
        return np.tile(np.array([[self.present, not self.present]], np.float32), (self.count, 1))

    @property
    def patients(self) -> list[None]:
        return [None] * self.count

    @property
    def keys(self) -> list[str]:
        return [f"planned-{self.number}-{int(self.present)}-{i}" for i in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def images_array(self, size: int, fit: str = "crop") -> np.ndarray:
        rng = np.random.default_rng([self.number, self.present])
        return rng.integers(0, 256, (self.count, 1, size, size), dtype=np.uint8)


def planned(finding: str, count: int, sets: int) -> list[Planned]:
    """Stand-ins for `sets` generators' films, present and absent ones in turn."""
    return [Planned(finding, present, count, n) for n in range(sets) for present in (True, False)]


def seconds_a_film(checkpoint: Checkpoint) -> float:
    """Seconds of one film here, by one that is drawn and thrown away."""
    start = time.perf_counter()
    sample(checkpoint, [""], [(0, 0)])
    return time.perf_counter() - start


def seconds_a_step(recipe: RouteRecipe, films: Any, model: str | Path, device: str = "auto") -> float:
    """Seconds of one step of an adaptation here: of the second and third of a trial that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        execution = Execution(device=device, max_steps=3)
        times = [
            time.perf_counter()
            for _ in adapt(recipe, [films], Path(folder) / "trial", model=str(model), execution=execution)
        ]
    return (times[-1] - times[0]) / max(1, len(times) - 1)
