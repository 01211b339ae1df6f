"""What a collection of real films holds, where synthetic films may help it, how many, and what they cost.

Counts are of films by finding, part and subgroup; a part is one of the first-day split, of the folder's own splits, or "all".
Advice is for the training part (`detector`, `train` or `all`) and has one of two grounds:

    a study      the synthetic arm that helped most (after Holm) at the size nearest to the films at hand, if any did
    a rule       without a study: fewer than 250 films with a finding, or fewer than 50 within a subgroup, may be too few;
                 the rule is no evidence, and says so

Subgroups are view (PA, AP), sex (F, M) and age bands in years, the upper bound excluded.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from synthaug.benchmark.arms import uses_synthetic
from synthaug.datasets.splits import parts_of
from synthaug.errors import DataError
from synthaug.evaluation.parts import SPLIT
from synthaug.evaluation.results import Results
from synthaug.tables import columns

ENOUGH, ENOUGH_IN_SUBGROUP = 250, 50
AGES = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))
TRAINING = ("detector", "train", "all")


@dataclass(frozen=True, slots=True)
class Count:
    """Films of a part and subgroup by one finding's label; the subgroup "" is all of them."""

    finding: str
    part: str
    subgroup: str
    present: int
    absent: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Rate:
    """What one synthetic film costs: seconds and bytes, and which findings the generator can draw."""

    seconds: float
    bytes: float
    findings: tuple[str, ...]
    generator: str


@dataclass(frozen=True, slots=True)
class Advice:
    """How many films with a finding (`present`) and without any (`absent`) may help, on what ground, at what cost."""

    finding: str
    subgroup: str
    have: int
    present: int
    absent: int
    why: str
    drawable: bool
    seconds: float
    megabytes: float


def subgroups(films: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The name and mask (n,) of each subgroup that has films, all of them first."""
    everyone = np.ones(len(films), bool)
    yield "", everyone
    for view in ("PA", "AP"):
        yield f"view {view}", np.array([v == view for v in films.views], bool)
    for sex in ("F", "M"):
        yield f"sex {sex}", np.array([s == sex for s in films.sexes], bool)
    for low, high in AGES:
        name = f"age {low}-{high - 1}" if high < 200 else f"age {low}+"
        yield name, np.array([a is not None and low <= a < high for a in films.ages], bool)


def parts(films: Any) -> dict[str, np.ndarray]:
    """Indices of each part: of the first-day split, else of the folder's own splits, else all."""
    named = parts_of(films, SPLIT)
    if named:
        return named
    own = [record.provenance.get("split") for record in films.records]
    names = sorted({name for name in own if name})
    if not names:
        return {"all": np.arange(len(films))}
    return {name: np.array([i for i, split in enumerate(own) if split == name]) for name in names}


def count(films: Any, findings: Sequence[str] | None = None) -> list[Count]:
    """The counts of every finding that some film shows, in each part and subgroup that has films of a known label."""
    wanted = findings or [f for f in films.findings if (films.column(f) == 1).any()]
    out = []
    for part, indices in parts(films).items():
        inside = films.subset(indices)
        for finding in wanted:
            column = inside.column(finding)
            for name, mask in subgroups(inside):
                labels = column[mask]
                found = Count(
                    finding,
                    part,
                    name,
                    int((labels == 1).sum()),
                    int((labels == 0).sum()),
                    int(np.isnan(labels).sum()),
                )
                if found.present or found.absent:
                    out.append(found)
    return out


def advise(counts: Sequence[Count], rate: Rate, study: Results | None = None) -> list[Advice]:
    """What may help, the findings of a study first; `no_finding` is never short of itself.

    Raises:
        DataError: the study is no utility study.
    """
    if study is not None and study.kind != "benchmark":
        raise DataError(
            f"--study: found results of kind {study.kind}, expected those of `synthaug benchmark`"
        )
    part = next(
        name for name in (*TRAINING, *{c.part for c in counts}) if any(c.part == name for c in counts)
    )
    out: list[Advice] = []
    for one in counts:
        if one.part != part or one.finding == "no_finding":
            continue
        if one.subgroup == "" and study is not None and study.settings["recipe"]["finding"] == one.finding:
            add, why = by_study(study, one.present)
            out.insert(0, _advice(one, *add, why, rate))
        elif one.subgroup == "" and one.present < ENOUGH:
            short = ENOUGH - one.present
            why = f"rule, no evidence: {one.present} films of {ENOUGH}"
            out.append(_advice(one, short, short, why, rate))
        elif one.subgroup and 0 < one.present < ENOUGH_IN_SUBGROUP <= _whole(counts, one):
            short = ENOUGH_IN_SUBGROUP - one.present
            why = f"rule, no evidence: {one.present} films of {ENOUGH_IN_SUBGROUP} in this subgroup"
            out.append(_advice(one, short, short, why, rate))
    return out


def by_study(study: Results, have: int) -> tuple[tuple[int, int], str]:
    """Films (present, absent) to add by a study's learning curve, and the sentence that says why.

    Arguments: `have` films with the finding. The point is the nearest in the ratio of film numbers.
    """
    curve = study.settings["curve"]
    real = [point for point in curve if point["arm"] == "real" and point["present"]]
    if not real:
        raise DataError(
            "--study: its learning curve has no point of arm real; run `synthaug benchmark` again"
        )
    nearest = min(real, key=lambda point: abs(math.log(point["present"] / max(have, 1))))
    beside = [p for p in curve if (p["depth"], p["size"]) == (nearest["depth"], nearest["size"])]
    helped = [
        p
        for p in beside
        if uses_synthetic(p["arm"]) and "p_holm" in p and p["p_holm"] < 0.05 and p["difference"] > 0
    ]
    place = f"study, at {nearest['present']} films with the finding ({nearest['depth']})"
    rehearsed = "; judged on validation" if study.settings["recipe"]["judge"] == "validation" else ""
    if study.settings["recipe"]["claim"] == "demonstration":
        rehearsed = "; a demonstration, no evidence"
    if not any(uses_synthetic(p["arm"]) for p in beside):
        return (0, 0), f"{place}: the study has no arm with synthetic films"
    if not helped:
        return (0, 0), f"{place}: no arm with synthetic films was shown to help{rehearsed}"
    best = max(helped, key=lambda point: point["difference"])
    added = (max(0, best["present"] - nearest["present"]), max(0, best["absent"] - nearest["absent"]))
    gain = f"{best['difference']:+.3f} AUROC [{best['difference_low']:.3f}, {best['difference_high']:.3f}]"
    return added, f"{place}: {best['arm']} helped by {gain}{rehearsed}"


def _whole(counts: Sequence[Count], one: Count) -> int:
    return next(c.present for c in counts if (c.finding, c.part, c.subgroup) == (one.finding, one.part, ""))


def _advice(one: Count, present: int, absent: int, why: str, rate: Rate) -> Advice:
    films = present + absent
    return Advice(
        one.finding,
        one.subgroup,
        one.present,
        present,
        absent,
        why,
        one.finding in rate.findings,
        films * rate.seconds,
        films * rate.bytes / 1e6,
    )


def to_json(counts: Sequence[Count], advice: Sequence[Advice], rate: Rate) -> dict[str, Any]:
    """Everything as plain JSON values."""
    return {
        "counts": [asdict(one) for one in counts],
        "advice": [asdict(one) for one in advice],
        "rate": asdict(rate),
    }


def in_words(counts: Sequence[Count], advice: Sequence[Advice], rate: Rate) -> str:
    """The counts of whole parts and the advice, as text to read; subgroups where films with the finding are few."""
    whole = [[c.finding, c.part, c.present, c.absent, c.unknown] for c in counts if not c.subgroup]
    lines = [columns(whole, ["finding", "part", "present", "absent", "unknown"]), ""]
    if not advice:
        return "\n".join([*lines, "no finding is short of films by the rule, and no study was given"])
    rows = [
        [
            one.finding,
            one.subgroup or "all",
            one.have,
            f"{one.present} + {one.absent}",
            f"{one.seconds / 60:.0f} min" if one.drawable else f"not by {rate.generator}",
            f"{one.megabytes:.0f} MB" if one.drawable else "",
            one.why,
        ]
        for one in advice
    ]
    head = ["finding", "subgroup", "have", "draw (with + without)", "time", "disk", "ground"]
    return "\n".join([*lines, columns(rows, head), "", "Measure before believing: `synthaug benchmark`."])
