"""A detector's figures by view, sex and age, by their crossings, and who is missed more often.

Conventions: a subgroup is "sex=F", a crossing "sex=F, age=60+"; films of unknown view, sex or age are in no subgroup of it.
The under-diagnosis gap (Seyyed-Kalantari et al. 2021) of a subgroup is its miss rate, 1 - sensitivity, less that of all
films outside it that have a value; its interval is Newcombe's. Every subgroup is shown: picking the largest of many gaps
would find one by chance.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from synthaug.evaluation.intervals import difference, proportion
from synthaug.evaluation.label_fidelity import Judge, Scored, fidelity_metrics, noise_clusters
from synthaug.evaluation.results import Metric, missing, protocol_id

AGES = ((0, 18, "0-17"), (18, 40, "18-39"), (40, 60, "40-59"), (60, 200, "60+"))
LEAST = 10  # present and absent films, each, of a subgroup
GAP = "under-diagnosis gap"


def age_band(age: float | None) -> str | None:
    """The band of an age in years: "0-17", "18-39", "40-59", "60+"; None when unknown."""
    return None if age is None else next((name for low, high, name in AGES if low <= age < high), None)


def attributes(data: Any) -> dict[str, list[str | None]]:
    """View, sex and age band of every film."""
    return {"view": list(data.views), "sex": list(data.sexes), "age": [age_band(age) for age in data.ages]}


def groups_of(values: dict[str, list[str | None]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Subgroup -> (inside, known), masks (n,): every value of each attribute, and of each pair of attributes."""
    columns = {name: np.array([v or "" for v in column]) for name, column in values.items()}
    out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for size in (1, 2):
        for names in combinations(columns, size):
            known = np.all([columns[name] != "" for name in names], axis=0)
            present = sorted(
                {tuple(row) for row in np.stack([columns[name] for name in names], 1)[known].tolist()}
            )
            for row in present:
                inside = known.copy()
                for name, value in zip(names, row, strict=True):
                    inside &= columns[name] == value
                if size == 1 or inside.sum() < known.sum():
                    out[", ".join(f"{n}={v}" for n, v in zip(names, row, strict=True))] = inside, known
    return out


def subgroup_metrics(
    judge: Judge, data: Any, scores: np.ndarray, finding: str, arm: str = "real"
) -> list[Metric]:
    """The four figures and the gap of every subgroup; where films are too few, one line that says so.

    Arguments: `scores` (n,) the detector's probabilities of the finding for every film of `data`.
    """
    present, absent = data.column(finding) == 1, data.column("no_finding") == 1
    clusters = noise_clusters(data)
    threshold = judge.detector.config.threshold(finding)
    out: list[Metric] = []
    for name, (inside, known) in groups_of(attributes(data)).items():
        counts = int((present & inside).sum()), int((absent & inside).sum())
        facts: dict[str, Any] = {
            "finding": finding,
            "subgroup": name,
            "arm": arm,
            "extractor": judge.name,
            "resize": judge.resize,
        }
        if min(counts) < LEAST:
            reason = f"{counts[0]} {finding} and {counts[1]} no_finding films; {LEAST} of each are needed"
            out.append(missing(GAP, reason, **facts))
            continue
        chosen = np.flatnonzero(inside & (present | absent))
        scored = Scored(scores[chosen], present[chosen].astype(float), tuple(clusters[i] for i in chosen))
        out += fidelity_metrics(scored, finding, threshold, arm, judge=judge, subgroup=name)
        missed = (scores < threshold).astype(float)
        out.append(
            _gap(missed, clusters, present & inside, present & known & ~inside, judge, threshold, facts)
        )
    return out


def _gap(
    missed: np.ndarray,
    clusters: Sequence[str],
    inside: np.ndarray,
    outside: np.ndarray,
    judge: Judge,
    threshold: float,
    facts: dict[str, Any],
) -> Metric:
    if outside.sum() < LEAST:
        return missing(GAP, f"{outside.sum()} {facts['finding']} films outside; {LEAST} are needed", **facts)
    rates = []
    for mask in (inside, outside):
        chosen = np.flatnonzero(mask)
        low, high = proportion(missed[chosen], [clusters[int(i)] for i in chosen])
        rates.append((float(missed[chosen].mean()), low, high))
    low, high = difference(*rates)
    return Metric(
        name=GAP,
        value=rates[0][0] - rates[1][0],
        low=low,
        high=high,
        n=int(inside.sum() + outside.sum()),
        protocol=protocol_id(GAP, 1, judge.digest, threshold),
        **facts,
    )
