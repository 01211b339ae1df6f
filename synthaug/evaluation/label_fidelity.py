"""Label fidelity: does a detector trained on real films find in synthetic films what their labels say?

Conventions: present films carry the finding, absent films are `no_finding` films; both are used in equal number, the first
of each. Films drawn from one noise (recipe seed, index) are one cluster of the interval. Scores are probabilities. An easy
caricature scores high here: the figure stands beside coverage, never alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthaug.detection.detector import Detector
from synthaug.detection.films import RadiographData, hold
from synthaug.detection.predict import predict
from synthaug.errors import UnknownNameError
from synthaug.evaluation.intervals import auroc_interval, proportion
from synthaug.evaluation.results import Metric, missing

NAMES = ("label accuracy", "label sensitivity", "label specificity", "label AUROC")


@dataclass(frozen=True, slots=True)
class Scored:
    """Balanced films of one finding: detector scores, labels 1 and 0, and the cluster of each film, all (n,)."""

    scores: np.ndarray
    labels: np.ndarray
    clusters: tuple[str, ...]


def noise_clusters(data: RadiographData) -> tuple[str, ...]:
    """The cluster of each film: its noise (recipe seed, index) where the records tell, else its patient, else itself."""
    records = getattr(data, "records", None)
    if records is not None and all("seed" in record.provenance for record in records):
        return tuple(f"{record.provenance['seed']}/{record.key}" for record in records)
    return tuple(
        key if patient is None else patient for patient, key in zip(data.patients, data.keys, strict=True)
    )


def balanced(present: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Indices of the first films of each kind, in equal number; masks (n,) in, present ones first."""
    ones, zeros = np.flatnonzero(present), np.flatnonzero(absent)
    count = min(len(ones), len(zeros))
    return np.concatenate([ones[:count], zeros[:count]])


def score(detector: Detector, data: Iterable[RadiographData], finding: str, balance: bool = True) -> Scored:
    """Score present and absent films of one finding; `balance=False` keeps all of both."""
    sets = list(data)
    films = hold(sets, detector.config.image_size, (finding, "no_finding"), detector.config.fit)
    clusters = [c for one in sets for c in noise_clusters(one)]
    present, absent = films.column(finding) == 1, films.column("no_finding") == 1
    both = present.any() and absent.any()
    chosen = balanced(present, absent) if balance and both else np.flatnonzero(present | absent)
    if not both:
        return Scored(
            np.full(len(chosen), np.nan), present[chosen].astype(float), tuple(clusters[i] for i in chosen)
        )
    scores = predict(detector, films.images[chosen])[:, detector.findings.index(finding)]
    return Scored(scores, present[chosen].astype(float), tuple(clusters[i] for i in chosen))


def fidelity_metrics(
    scored: Scored, finding: str, threshold: float, arm: str, prefix: str = "label"
) -> list[Metric]:
    """Accuracy, sensitivity, specificity and AUROC with their intervals.

    Accuracy gives present and absent films half the weight each, so real films in any number compare with balanced ones.
    """
    facts: dict[str, Any] = {"finding": finding, "arm": arm}
    names = [name.replace("label", prefix, 1) for name in NAMES]
    if len(set(scored.labels.tolist())) < 2:
        present, absent = int((scored.labels == 1).sum()), int((scored.labels == 0).sum())
        reason = f"{finding} and no_finding films are both needed, found {present} and {absent}"
        return [missing(name, reason, **facts) for name in names]
    ones = scored.labels == 1
    correct = ((scored.scores >= threshold) == ones).astype(float)
    halves = np.where(ones, 0.5 / ones.sum(), 0.5 / (~ones).sum())
    out = []
    for name, chosen in zip(names, (ones | ~ones, ones, ~ones), strict=False):
        weights, groups = halves[chosen], [scored.clusters[i] for i in np.flatnonzero(chosen)]
        value = np.average(correct[chosen], weights=weights)
        low, high = proportion(correct[chosen], groups, weights)
        out.append(Metric(name=name, value=value, low=low, high=high, n=len(weights), **facts))
    area = auroc_interval(scored.scores, scored.labels, scored.clusters)
    out.append(Metric(name=names[3], value=area.value, low=area.low, high=area.high, n=len(correct), **facts))
    return out


def label_fidelity(
    detector: Detector, data: Sequence[RadiographData], finding: str, arm: str = "synthetic"
) -> list[Metric]:
    """The four figures of one finding on synthetic films, and as a control the accuracy with shuffled labels.

    Raises `UnknownNameError` where the detector does not know the finding.
    """
    if finding not in detector.findings:
        raise UnknownNameError("finding of the detector", finding, detector.findings)
    scored = score(detector, data, finding)
    threshold = detector.config.threshold(finding)
    out = fidelity_metrics(scored, finding, threshold, arm)
    if out[0].value is not None:
        shuffled = Scored(scored.scores, np.random.default_rng(0).permutation(scored.labels), scored.clusters)
        control = fidelity_metrics(shuffled, finding, threshold, arm, "shuffled label")[0]
        out.append(control)
    return out
