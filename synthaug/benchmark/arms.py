"""The arms of a utility study: which films each detector is trained on.

Conventions: an arm's films show the finding (1) or are `no_finding` films (0), one label column; validation and test films
are real and the same for every arm.

    real        the real training films
    synthetic   the synthetic films
    mixed       the real training films and synthetic ones
    control     the real training films and those the generator saw: what the generator's films would do by themselves
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from synthaug.detection.films import Films, Fit, hold, split_films
from synthaug.errors import DataError
from synthaug.evaluation.parts import parts_of

ArmName = Literal["real", "synthetic", "mixed", "control"]


@dataclass(frozen=True, slots=True)
class Study:
    """The films of a study: by arm, and the real films to choose on and to measure on. `reasons` says why an arm is not there."""

    arms: dict[str, Films]
    validation: Films
    test: Films
    reasons: dict[str, str]


def one_finding(films: Films, finding: str) -> Films:
    """The films that show the finding or are `no_finding`, with that one label column."""
    present, absent = films.column(finding) == 1, films.column("no_finding") == 1
    chosen = np.flatnonzero(present | absent)
    kept = films.subset(chosen)
    return Films(kept.images, present[chosen, None].astype(np.float32), (finding,), kept.patients, kept.keys)


def join(*parts: Films) -> Films:
    """Films one after another."""
    return Films(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        parts[0].findings,
        tuple(name for p in parts for name in p.patients),
        tuple(name for p in parts for name in p.keys),
    )


def mix(real: Films, synthetic: Films, fraction: float | None, seed: int = 0) -> Films:
    """All real films and synthetic ones: all of them, or so many that they are `fraction` of the whole, drawn by `seed`."""
    if fraction is None:
        return join(real, synthetic)
    count = round(fraction / (1 - fraction) * len(real))
    if count > len(synthetic):
        raise DataError(
            f"synthetic_fraction {fraction} beside {len(real)} real films needs {count} synthetic films, found {len(synthetic)}"
        )
    return join(
        real, synthetic.subset(np.sort(np.random.default_rng(seed).permutation(len(synthetic))[:count]))
    )


def real_parts(real: Any, image_size: int, finding: str, fit: Fit, seed: int = 0) -> dict[str, Films]:
    """Real films by part: the first-day split where it knows them, else 60 / 15 / 25 % of the patients.

    Parts are `train`, `validation`, `test` and, where the split has it, `generator`.
    """
    films = hold(real, image_size, (finding, "no_finding"), fit)
    parts = parts_of(real)
    if parts:
        missing = [name for name in ("detector", "validation", "test") if name not in parts]
        if missing:
            raise DataError(f"the real films lack the parts {', '.join(missing)} of the first-day split")
        names = {"detector": "train", "validation": "validation", "test": "test", "generator": "generator"}
        return {
            names[part]: one_finding(films.subset(indices), finding)
            for part, indices in parts.items()
            if part in names
        }
    rest, test = split_films(films, 0.25, seed)
    inner = films.subset(rest)
    train, validation = split_films(inner, 0.2, seed + 1)
    chosen = {
        "train": inner.subset(train),
        "validation": inner.subset(validation),
        "test": films.subset(test),
    }
    return {name: one_finding(part, finding) for name, part in chosen.items()}


def build_arms(parts: dict[str, Films], synthetic: Films | None, fraction: float | None, claim: str) -> Study:
    """The arms that the films at hand allow.

    Arguments: `parts` as `real_parts` gives them; `claim` "transfer" adds the control arm.
    Raises `DataError` where a part or the synthetic films lack present or absent films.
    """
    real = parts["train"]
    arms, reasons = {"real": real}, {}
    if synthetic is None:
        reasons = dict.fromkeys(("synthetic", "mixed"), "no synthetic films: pass --synthetic DIR")
    else:
        arms |= {"synthetic": synthetic, "mixed": mix(real, synthetic, fraction)}
    if claim == "transfer":
        if "generator" in parts:
            arms["control"] = join(real, parts["generator"])
        else:
            reasons["control"] = "the generator's training films are not among the real films"
    for name, films in {**arms, "validation": parts["validation"], "test": parts["test"]}.items():
        present = int((films.labels == 1).sum())
        if not 0 < present < len(films):
            raise DataError(
                f"{name} films: {present} show {films.findings[0]} and {len(films) - present} are no_finding; both are needed"
            )
    return Study(arms, parts["validation"], parts["test"], reasons)
