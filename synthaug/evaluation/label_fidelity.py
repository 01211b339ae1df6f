"""Label fidelity: does a detector trained on real films find in synthetic films what their labels say?

Conventions: present films carry the finding, absent films are `no_finding` films; both are used in equal number, the first
of each. Films drawn from one noise (recipe seed, index) are one cluster of the interval. Scores are probabilities. An easy
caricature scores high here: the figure stands beside coverage, never alone. The ceiling is the same detector on real films
of patients that neither it nor the generator has seen; the shuffled labels and the empty prompt show what chance looks like.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthaug.detection.detector import Detector, load_detector
from synthaug.detection.films import RadiographData, hold
from synthaug.detection.predict import predict
from synthaug.errors import UnknownNameError
from synthaug.evaluation.features import weights_digest
from synthaug.evaluation.intervals import auroc_interval, difference, proportion
from synthaug.evaluation.results import Metric, missing, protocol_id
from synthaug.evaluation.sample_size import films_needed
from synthaug.record import Record

NAMES = ("label accuracy", "label sensitivity", "label specificity", "label AUROC")
BOUND = 0.95  # the accuracy that the paper reports
EMPTY = "empty prompt label accuracy"


@dataclass(frozen=True, slots=True)
class Judge:
    """A detector under the name that tables give it; `digest` covers weights and configuration."""

    name: str
    detector: Detector
    digest: str

    @property
    def resize(self) -> str:
        config = self.detector.config
        return f"{config.image_size} {config.fit}"


@dataclass(frozen=True, slots=True)
class Scored:
    """Balanced films of one finding: detector scores, labels 1 and 0, and the cluster of each film, all (n,)."""

    scores: np.ndarray
    labels: np.ndarray
    clusters: tuple[str, ...]


def judges(sources: Sequence[Detector | str | Path], device: str = "auto") -> list[Judge]:
    """Detectors, each under a name of its own.

    Raises `DetectorError` where one cannot be opened.
    """
    out: list[Judge] = []
    for source in sources:
        detector = source if isinstance(source, Detector) else load_detector(source, device=device)
        stem = detector.config.arch if isinstance(source, Detector) else Path(source).name
        taken = [judge.name for judge in out]
        name = stem if stem not in taken else f"{stem}-{len(out) + 1}"
        out.append(
            Judge(name, detector, weights_digest(detector.network, [detector.config.model_dump(mode="json")]))
        )
    return out


def noise_clusters(data: RadiographData) -> tuple[str, ...]:
    """The cluster of each film: its noise (recipe seed, index) where the records tell, else its patient, else itself."""
    records = getattr(data, "records", None)
    if records is not None and all("seed" in record.provenance for record in records):
        return tuple(f"{record.provenance['seed']}/{noise_index(record)}" for record in records)
    return tuple(
        key if patient is None else patient for patient, key in zip(data.patients, data.keys, strict=True)
    )


def noise_index(record: Record) -> Any:
    """The index of a film's noise: its key, or where a quality gate had it drawn again that of the draw that passed."""
    index = (record.provenance.get("quality") or {}).get("index")
    if index is not None:
        return index
    return int(record.key) if record.key.isdecimal() else record.key


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
    scored: Scored,
    finding: str,
    threshold: float,
    arm: str,
    prefix: str = "label",
    judge: Judge | None = None,
    subgroup: str | None = None,
) -> list[Metric]:
    """Accuracy, sensitivity, specificity and AUROC with their intervals.

    Accuracy gives present and absent films half the weight each, so real films in any number compare with balanced ones.
    """
    facts: dict[str, Any] = {"finding": finding, "arm": arm, "subgroup": subgroup}
    names = [name.replace("label", prefix, 1) for name in NAMES]
    protocols: list[str | None] = [None] * len(names)
    if judge is not None:
        facts |= {"extractor": judge.name, "resize": judge.resize}
        protocols = [protocol_id(name, 1, judge.digest, threshold) for name in NAMES]
    if len(set(scored.labels.tolist())) < 2:
        present, absent = int((scored.labels == 1).sum()), int((scored.labels == 0).sum())
        reason = f"{finding} and no_finding films are both needed, found {present} and {absent}"
        return [missing(name, reason, **facts) for name in names]
    ones = scored.labels == 1
    correct = ((scored.scores >= threshold) == ones).astype(float)
    halves = np.where(ones, 0.5 / ones.sum(), 0.5 / (~ones).sum())
    out = []
    for name, protocol, chosen in zip(names, protocols, (ones | ~ones, ones, ~ones), strict=False):
        weights, groups = halves[chosen], [scored.clusters[i] for i in np.flatnonzero(chosen)]
        value = np.average(correct[chosen], weights=weights)
        low, high = proportion(correct[chosen], groups, weights)
        out.append(
            Metric(name=name, value=value, low=low, high=high, n=len(weights), protocol=protocol, **facts)
        )
    area = auroc_interval(scored.scores, scored.labels, scored.clusters)
    interval: dict[str, Any] = {"value": area.value, "low": area.low, "high": area.high}
    out.append(Metric(name=names[3], n=len(correct), protocol=protocols[3], **interval, **facts))
    return out


def label_fidelity(
    detector: Detector | Judge, data: Sequence[RadiographData], finding: str, arm: str = "synthetic"
) -> list[Metric]:
    """The four figures of one finding on synthetic films, and as a control accuracy and AUROC with shuffled labels.

    Raises `UnknownNameError` where the detector does not know the finding.
    """
    judge = detector if isinstance(detector, Judge) else None
    reader = detector.detector if isinstance(detector, Judge) else detector
    if finding not in reader.findings:
        raise UnknownNameError("finding of the detector", finding, reader.findings)
    return _with_control(score(reader, data, finding), finding, reader.config.threshold(finding), arm, judge)


def _with_control(
    scored: Scored, finding: str, threshold: float, arm: str, judge: Judge | None
) -> list[Metric]:
    out = fidelity_metrics(scored, finding, threshold, arm, judge=judge)
    if out[0].value is not None:
        shuffled = Scored(scored.scores, np.random.default_rng(0).permutation(scored.labels), scored.clusters)
        control = fidelity_metrics(shuffled, finding, threshold, arm, "shuffled label", judge)
        out += [control[0], control[3]]
    return out


def certificate(
    judge: Judge,
    synthetic: Sequence[RadiographData],
    finding: str,
    real: RadiographData | None = None,
    empty_prompt: RadiographData | None = None,
    bound: float = BOUND,
) -> list[Metric]:
    """All that is said of one finding by one detector.

    The four figures and the control on synthetic films; accuracy by seed; the ceiling, arm "real"; the accuracy's distance to
    the ceiling; the share of films of an empty prompt that the detector calls present, and how often that agrees with the label
    that the same noise was drawn with, which is a guess; how many independent films would show that the accuracy found
    exceeds `bound`. What cannot be said has a reason.
    """
    facts: dict[str, Any] = {"finding": finding, "extractor": judge.name, "resize": judge.resize}
    threshold = judge.detector.config.threshold(finding)
    scored = score(judge.detector, synthetic, finding)
    out = _with_control(scored, finding, threshold, "synthetic", judge)
    out += _by_seed(judge, scored, finding, threshold)
    found = out[0]
    if real is None:
        out.append(missing(NAMES[0], "no --real: the detector's own ceiling is unknown", arm="real", **facts))
    else:
        ceiling = fidelity_metrics(
            score(judge.detector, [real], finding, balance=False), finding, threshold, "real", judge=judge
        )
        out += [*ceiling, _distance(found, ceiling[0], facts)]
    out += _empty(judge, synthetic, empty_prompt, finding, facts)
    return [*out, _needed(found, bound, facts)]


def _empty(
    judge: Judge,
    synthetic: Sequence[RadiographData],
    empty_prompt: RadiographData | None,
    finding: str,
    facts: dict[str, Any],
) -> list[Metric]:
    """Films without a prompt: called present how often, and right how often about the label asked of the same noise."""
    called_present, arm = "empty prompt called present", "empty prompt"
    if empty_prompt is None:
        reason = "no --empty-prompt and no --controls: this control was not run"
        return [missing(name, reason, arm=arm, **facts) for name in (called_present, EMPTY)]
    threshold = judge.detector.config.threshold(finding)
    scores = predict(judge.detector, empty_prompt)[:, judge.detector.findings.index(finding)]
    called, clusters = (scores >= threshold).astype(float), noise_clusters(empty_prompt)
    low, high = proportion(called, clusters)
    out = [
        Metric(name=called_present, arm=arm, value=called.mean(), low=low, high=high, n=len(called), **facts)
    ]
    asked = _asked(synthetic, finding)
    pairs = [(i, label) for i, cluster in enumerate(clusters) for label in asked.get(cluster, ())]
    shared, labels = [i for i, _ in pairs], np.array([label for _, label in pairs])
    if len(set(labels.tolist())) < 2:
        reason = "no film shares its noise (seed, index) with films of either label; draw with the seeds of the labelled films"
        return [*out, missing(EMPTY, reason, arm=arm, **facts)]
    held = Scored(scores[shared], labels, tuple(clusters[i] for i in shared))
    return [*out, fidelity_metrics(held, finding, threshold, arm, "empty prompt label", judge)[0]]


def _asked(synthetic: Sequence[RadiographData], finding: str) -> dict[str, list[float]]:
    """Noise -> the labels that it was drawn with: 1 with the finding, 0 without any, or both."""
    found: dict[str, set[float]] = {}
    for one in synthetic:
        films = zip(noise_clusters(one), _labels(one, finding), _labels(one, "no_finding"), strict=True)
        for cluster, present, absent in films:
            if present == 1 or absent == 1:
                found.setdefault(cluster, set()).add(float(present == 1))
    return {cluster: sorted(values) for cluster, values in found.items()}


def _labels(data: RadiographData, finding: str) -> np.ndarray:
    names = list(data.findings)
    return data.labels[:, names.index(finding)] if finding in names else np.full(len(data), np.nan)


def _by_seed(judge: Judge, scored: Scored, finding: str, threshold: float) -> list[Metric]:
    """Accuracy of each pair of seeds, the n-th with the finding beside the n-th without; nothing where there is one pair."""
    noises = [cluster.rpartition("/")[0] for cluster in scored.clusters]
    if not all(seed.isdecimal() for seed in noises):
        return []
    seeds = np.array([int(seed) for seed in noises])
    ones = scored.labels == 1
    pairs = list(zip(np.unique(seeds[ones]), np.unique(seeds[~ones]), strict=False))
    out = []
    for one, other in pairs if len(pairs) > 1 else []:
        rows = np.flatnonzero((ones & (seeds == one)) | (~ones & (seeds == other)))
        held = Scored(scored.scores[rows], scored.labels[rows], tuple(scored.clusters[i] for i in rows))
        name = f"seeds {one} and {other}"
        out.append(fidelity_metrics(held, finding, threshold, "synthetic", judge=judge, subgroup=name)[0])
    return out


def _distance(found: Metric, ceiling: Metric, facts: dict[str, Any]) -> Metric:
    name = "label accuracy minus ceiling"
    if found.value is None or ceiling.value is None:
        return missing(name, found.reason or ceiling.reason or "", arm="synthetic", **facts)
    low, high = difference(_triple(found), _triple(ceiling))
    value = found.value - ceiling.value
    return Metric(name=name, arm="synthetic", value=value, low=low, high=high, n=found.n, **facts)


def _triple(metric: Metric) -> tuple[float, float, float]:
    value, low, high = metric.value, metric.low, metric.high
    if value is None or low is None or high is None:
        raise ValueError(f"{metric.name}: no interval")
    return value, low, high


def _needed(found: Metric, bound: float, facts: dict[str, Any]) -> Metric:
    name = f"films needed to show accuracy above {bound:g}"
    if found.value is None:
        return missing(name, found.reason or "", arm="synthetic", **facts)
    count = films_needed(found.value, bound) if found.value > 0 else None
    if count is None:
        reason = (
            f"the accuracy found, {found.value:.3f}, is not above {bound:g}: no number of films would show it"
        )
        return missing(name, reason, arm="synthetic", **facts)
    return Metric(
        name=name,
        arm="synthetic",
        value=count,
        n=found.n,
        note="power 80 %, were the accuracy found the true one",
        **facts,
    )
