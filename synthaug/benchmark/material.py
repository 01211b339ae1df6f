"""The films of a study, by what they may be used for.

    training     the detectors' films            validation   chooses steps, strength, thresholds, the arm
    judge        the films all figures are of    synthetic    the generator's films
    generator    the films that the generator was trained on

Real films are parted by the first-day split where it names them, else by the folder's own train, validation and test, else
by patient: 60 / 15 / 25 %. The judge "test" opens the part test. The judge "validation" is for rehearsals: the films of part
validation are judged, a fifth of the training patients chooses in their place, and no film of part test is decoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from synthaug.benchmark.arms import Size
from synthaug.benchmark.leakage import Side, guard, own_films, without_leaks
from synthaug.datasets.splits import parts_of
from synthaug.detection.films import ALONE, Films, Fit, hold, split_films
from synthaug.errors import DataError
from synthaug.evaluation.parts import SPLIT

Judge = Literal["test", "validation"]
# Fewer films of either label than this cannot choose anything.
LEAST_TO_CHOOSE = 10


@dataclass(frozen=True, slots=True)
class Material:
    """The films of a study, one label column each: 1 with the finding, 0 `no_finding`. `notes` say what to keep in mind.

    `pools`: (size, draw) -> indices of the synthetic films that serve it, where each draw has a generator of its own.
    """

    training: Films
    validation: Films
    judge: Films
    synthetic: Films | None = None
    generator: Films | None = None
    notes: tuple[str, ...] = ()
    pools: Mapping[tuple[Size, int], np.ndarray] | None = None

    def digest(self) -> dict[str, str]:
        """A hash of each side, by its name."""
        return {name: films.digest() for name, films in self.sides().items()}

    def sides(self) -> dict[Side, Films]:
        """The sides that are there."""
        named: dict[Side, Films | None] = {
            "training": self.training,
            "validation": self.validation,
            "judge": self.judge,
            "synthetic": self.synthetic,
            "generator": self.generator,
        }
        return {name: films for name, films in named.items() if films is not None}


def one_finding(films: Films, finding: str) -> Films:
    """The films that show the finding or are `no_finding`, with that one label column."""
    present, absent = films.column(finding) == 1, films.column("no_finding") == 1
    chosen = np.flatnonzero(present | absent)
    kept = films.subset(chosen)
    return replace(kept, labels=present[chosen, None].astype(np.float32), findings=(finding,))


def counts(films: Films) -> dict[str, int]:
    """Films with and without the finding, and patients."""
    present = int((films.labels == 1).sum())
    return {"present": present, "absent": len(films) - present, "patients": len(set(films.patients))}


def real_parts(real: Any, judge: Judge = "test") -> tuple[dict[str, Any], list[str]]:
    """Real data sets by part (train, validation, judge, and generator where the split has it), and notes.

    Raises `DataError` where the first-day split names the films and a part is missing.
    """
    named = {part: real.subset(indices) for part, indices in parts_of(real, SPLIT).items()}
    notes = []
    if named:
        missing = [name for name in ("detector", "validation", "test") if name not in named]
        if missing:
            raise DataError(f"the real films lack the parts {', '.join(missing)} of the split {SPLIT}")
        parts = {"train": named["detector"], "validation": named["validation"], "test": named["test"]}
        if "generator" in named:
            parts["generator"] = named["generator"]
        notes.append(f"parts of the first-day split {SPLIT}")
    else:
        parts, how = _own_parts(real)
        notes.append(how)
    if judge == "validation":
        inside, outside = _by_patient(parts["train"], 0.2, 2)
        parts |= {"test": parts["validation"], "validation": outside, "train": inside}
        notes.append(
            "rehearsal: judged on validation films; a fifth of the training patients chooses in their place"
        )
    if all(patient is None for patient in real.patients):
        notes.append("patients unknown: every film counts as one of its own, so intervals may be too narrow")
    return {("judge" if name == "test" else name): films for name, films in parts.items()}, notes


def _own_parts(real: Any) -> tuple[dict[str, Any], str]:
    """By the folder's own splits where it has train and test, else by patient."""
    splits: list[str | None] = [record.provenance.get("split") for record in real.records]
    if {"train", "test"} <= set(splits):
        parts = {
            name: real.subset([i for i, s in enumerate(splits) if s == name]) for name in ("train", "test")
        }
        own = [i for i, s in enumerate(splits) if s == "validation"]
        if len(own) >= 4 * LEAST_TO_CHOOSE:
            return {**parts, "validation": real.subset(own)}, "the folder's own train, validation and test"
        inside, outside = _by_patient(parts["train"], 0.2, 1)
        return {**parts, "train": inside, "validation": outside}, (
            "the folder's own train and test; a fifth of the training patients is validation"
        )
    rest, test = _by_patient(real, 0.25, 0)
    train, validation = _by_patient(rest, 0.2, 1)
    return {"train": train, "validation": validation, "test": test}, "split by patient: 60 / 15 / 25 %"


def _by_patient(films: Any, fraction: float, seed: int) -> tuple[Any, Any]:
    """A data set without and with `fraction` of its patients."""
    owners = [f"film:{key}" if p is None else p for p, key in zip(films.patients, films.keys, strict=True)]
    inside, outside = split_films(owners, fraction, seed)
    return films.subset(inside), films.subset(outside)


def gather(
    real: Any,
    synthetic: Sequence[Any] | None,
    generator: Any | None,
    finding: str,
    image_size: int,
    fit: Fit,
    claim: str,
    judge: Judge = "test",
    drop_leaks: bool = False,
    draws: Sequence[tuple[Size, int]] | None = None,
) -> Material:
    """Decode the films of a study at one size, guard them against leaks, and keep those that answer the question.

    Arguments: `synthetic` data sets, read as one; `generator` the generator's own training films, by default the part
    generator of the split; `draws` the (size, draw) of each pair of synthetic sets, where each was drawn by a generator that was
    adapted on that draw's real films. Raises `DataError` where sides leak or a side lacks present or absent films.
    """
    parts, notes = real_parts(real, judge)
    sets: dict[Side, Any] = {
        "training": parts["train"],
        "validation": parts["validation"],
        "judge": parts["judge"],
    }
    taught = generator_part(generator) if generator is not None else parts.get("generator")
    if taught is not None and claim != "demonstration":
        sets["generator"] = taught
    else:
        notes.append(
            "the generator's training films are not at hand: they were not compared with the judge's"
        )
    if synthetic:
        sets["synthetic"] = list(synthetic)
    sides = {side: hold(films, image_size, (finding, "no_finding"), fit) for side, films in sets.items()}
    if drop_leaks:
        sides, left_out = without_leaks(sides, claim)
        notes.append(f"--drop-leaks: {left_out} films left out")
    guard(sides, claim, adapted_inside=draws is not None)
    if draws is not None:
        sides.pop("generator", None)
        notes.append(f"closed: {len(draws)} generators, each adapted on the real films of one size and draw")
        held = checked({side: one_finding(films, finding) for side, films in sides.items()}, notes)
        return replace(held, pools=_pools(held.synthetic, draws))
    if claim == "closed":
        _, own = own_films(sides)
        sides["training"] = sides["training"].subset(sorted(own))
        notes.append(f"closed: the real arm is the generator's own {len(own)} films")
    return checked({side: one_finding(films, finding) for side, films in sides.items()}, notes)


def _pools(synthetic: Films | None, draws: Sequence[tuple[Size, int]]) -> dict[tuple[Size, int], np.ndarray]:
    """The films of each draw: data sets come in pairs, present and absent, and a film without a patient names its set."""
    if synthetic is None:
        return {}
    owner = np.array([int(name.removeprefix(ALONE).partition(":")[0]) // 2 for name in synthetic.patients])
    return {draw: np.flatnonzero(owner == number) for number, draw in enumerate(draws)}


def generator_part(films: Any) -> Any:
    """The part generator of the first-day split where that names the films, else all of them."""
    parts = parts_of(films, SPLIT)
    return films.subset(parts["generator"]) if "generator" in parts else films


def checked(sides: dict[Side, Films], notes: Sequence[str] = ()) -> Material:
    """The material of a study. Raises `DataError` where a side, the generator's apart, lacks present or absent films."""
    for side, films in sides.items():
        found = counts(films)
        if side != "generator" and not (found["present"] and found["absent"]):
            raise DataError(
                f"{side} films: {found['present']} show {films.findings[0]} and {found['absent']} are no_finding; both are "
                "needed. `synthaug data DIR` shows how a folder is labelled"
            )
    if "generator" in sides and not len(sides["generator"]):
        sides = {side: films for side, films in sides.items() if side != "generator"}
    return Material(
        sides["training"],
        sides["validation"],
        sides["judge"],
        sides.get("synthetic"),
        sides.get("generator"),
        tuple(notes),
    )
