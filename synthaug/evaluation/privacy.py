"""Privacy: are synthetic films nearer to films the generator was trained on than unseen real films are?

Conventions: every film looks for its nearest training films in features and in 64 x 64 grey values, `CANDIDATES` of each;
among these the highest correlation of the inner grey values, over shifts of up to `SHIFT` pixels, is the film's match. A
copy has a correlation near 1 whatever its brightness and contrast. The thresholds are what all but a share `rate` of
unseen real films keep, half of it for each of the two measures; with that rate an innocent film is listed. Nothing here
proves that a generator does not remember: it shows copies where they are.

Membership inference asks from the other side: is a training film nearer to the synthetic films than an unseen film is?
AUROC .5 is no sign of it. Training and unseen films must come from one source, or the AUROC tells the sources apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthaug.datasets.leakage import Leak, Part, between
from synthaug.datasets.likeness import prints_of_images
from synthaug.errors import DataError
from synthaug.evaluation.features import THUMBNAIL, Features
from synthaug.evaluation.features import thumbnails as unit_thumbnails
from synthaug.evaluation.intervals import auroc_interval, median_interval, proportion
from synthaug.evaluation.results import Metric, missing, protocol_id
from synthaug.neighbours import nearest

CANDIDATES = 10
SHIFT = 4
RATE = 0.01
VERDICT_FROM = 1500  # real films
SYNTHETIC_FROM = 200  # synthetic films: fewer leave most training films without a near one
NAMES = (
    "nearer than unseen real films",
    "nearest training film, median",
    "highest correlation with a training film",
)
MEMBERSHIP = "membership inference AUROC"


@dataclass(frozen=True, slots=True)
class Films:
    """What the audit looks at: features (n, d), thumbnails uint8 (n, 1, 64, 64), a name and a cluster of each film."""

    features: Features
    thumbnails: np.ndarray
    names: tuple[str, ...]
    clusters: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class Nearest:
    """Distance to the nearest training film in features, and the most correlated one: `correlation`, `match`, all (n,)."""

    distance: np.ndarray
    correlation: np.ndarray
    match: np.ndarray


@dataclass(frozen=True, slots=True)
class Audit:
    """Synthetic and unseen real films beside the training films, and the thresholds at `rate`."""

    synthetic: Nearest
    unseen: Nearest
    rate: float
    distance_cut: float
    correlation_cut: float

    @property
    def suspicious(self) -> np.ndarray:
        """Which synthetic films lie beyond a threshold, bool (n,)."""
        near = self.synthetic.distance < self.distance_cut
        return np.asarray(near | (self.synthetic.correlation > self.correlation_cut))

    @property
    def offenders(self) -> np.ndarray:
        """Their indices, the most correlated first."""
        found = np.flatnonzero(self.suspicious)
        return found[np.argsort(-self.synthetic.correlation[found], kind="stable")]


def aligned_correlation(film: np.ndarray, others: np.ndarray, shift: int = SHIFT) -> np.ndarray:
    """The highest correlation (k,) of the inner part of a film (s, s) with parts of others (k, s, s) shifted by up to `shift`.

    Grey values without spread, a blank film say, correlate with nothing: 0.
    """
    size, side = film.shape[0], film.shape[0] - 2 * shift
    inner = film[shift:-shift, shift:-shift].astype(np.float64)
    inner -= inner.mean()
    values = others.astype(np.float64) - others.mean((1, 2), keepdims=True)
    # Shifts that stay inside do not wrap around: the circular correlation is the plain one there.
    spectrum = np.fft.rfft2(values) * np.fft.rfft2(inner, s=(size, size)).conj()
    products = np.fft.irfft2(spectrum, s=(size, size))[:, : 2 * shift + 1, : 2 * shift + 1]
    sums, squares = _window_sums(values, side), _window_sums(values**2, side)
    spread = np.sqrt(np.maximum(squares - sums**2 / side**2, 0)) * np.linalg.norm(inner)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 1e-3, products / spread, 0.0).max((1, 2)))


def _window_sums(values: np.ndarray, side: int) -> np.ndarray:
    """Sums (k, w, w) over every window of `side` pixels of values (k, s, s)."""
    total = np.pad(values, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    ends, starts = slice(side, None), slice(None, -side)
    return np.asarray(
        total[:, ends, ends] - total[:, starts, ends] - total[:, ends, starts] + total[:, starts, starts]
    )


def nearest_training(films: Films, training: Films) -> Nearest:
    """The nearest training film of every film."""
    k = min(CANDIDATES, len(training))
    by_features = nearest(films.features.values, training.features.values, k)
    by_pixels = nearest(unit_thumbnails(films.thumbnails), unit_thumbnails(training.thumbnails), k)
    correlation, match = np.empty(len(films)), np.empty(len(films), np.int64)
    for i in range(len(films)):
        candidates = np.unique(np.concatenate([by_features.indices[i], by_pixels.indices[i]]))
        values = aligned_correlation(films.thumbnails[i, 0], training.thumbnails[candidates, 0])
        best = int(values.argmax())
        correlation[i], match[i] = values[best], candidates[best]
    return Nearest(by_features.distances[:, 0], correlation, match)


def audit(synthetic: Films, training: Films, unseen: Films, rate: float = RATE) -> Audit:
    """Compare synthetic films with unseen real ones.

    Raises `DataError` where an unseen film is a training film, or too few unseen films give no threshold at `rate`.
    """
    if not 0 < rate < 0.5:
        raise DataError(f"--rate {rate}: expected a share above 0 and below 0.5")
    needed = int(np.ceil(2 / rate))
    if len(unseen) < needed:
        raise DataError(
            f"privacy: {len(unseen)} unseen real films give no threshold at a rate of {rate:g}; {needed} are needed"
        )
    known = {film: name for film, name in zip(training.features.films, training.names, strict=True)}
    shared = [
        f"{n} = {known[f]}" for f, n in zip(unseen.features.films, unseen.names, strict=True) if f in known
    ]
    if shared:
        raise DataError(
            f"privacy: {len(shared)} unseen films are training films of the generator: {', '.join(shared[:5])}; "
            "choose another --split"
        )
    drawn, real = nearest_training(synthetic, training), nearest_training(unseen, training)
    return Audit(
        drawn,
        real,
        rate,
        float(np.quantile(real.distance, rate / 2)),
        float(np.quantile(real.correlation, 1 - rate / 2)),
    )


def audit_metrics(found: Audit, synthetic: Films, arm: str = "synthetic") -> list[Metric]:
    """Share of films beyond a threshold (floor: the rate), median distance and highest correlation (floors: unseen films)."""
    facts = _facts(synthetic, arm)
    source = synthetic.features
    share, _, highest = (
        protocol_id(name, 1, source.digest, source.resize, found.rate, CANDIDATES, SHIFT) for name in NAMES
    )
    outcomes = found.suspicious.astype(float)
    low, high = proportion(outcomes, synthetic.clusters)
    peaks = found.synthetic.correlation.max(), found.unseen.correlation.max()
    return [
        Metric(
            name=NAMES[0],
            value=outcomes.mean(),
            low=low,
            high=high,
            floor=found.rate,
            protocol=share,
            **facts,
        ),
        median_distance(found.synthetic, found.unseen, synthetic, arm),
        Metric(name=NAMES[2], value=peaks[0], floor=peaks[1], protocol=highest, **facts),
    ]


def median_distance(drawn: Nearest, unseen: Nearest, synthetic: Films, arm: str = "synthetic") -> Metric:
    """Median distance of synthetic films to their nearest training film, noises resampled; floor: that of unseen films."""
    source = synthetic.features
    found = median_interval(drawn.distance, synthetic.clusters)
    return Metric(
        name=NAMES[1],
        value=found.value,
        low=found.low,
        high=found.high,
        floor=float(np.median(unseen.distance)),
        protocol=protocol_id(NAMES[1], 2, source.digest, source.resize),
        **_facts(synthetic, arm),
    )


def _facts(synthetic: Films, arm: str) -> dict[str, Any]:
    source = synthetic.features
    resize = f"{source.resize}; {THUMBNAIL} squash"
    return {"arm": arm, "extractor": source.extractor, "resize": resize, "n": len(synthetic)}


def membership(synthetic: Films, training: Films, unseen: Films, arm: str = "synthetic") -> Metric:
    """AUROC of telling training from unseen films by the distance to the nearest synthetic film; patients are resampled."""
    source = synthetic.features
    facts: dict[str, Any] = {"arm": arm, "extractor": source.extractor, "resize": source.resize}
    if not len(training) or not len(unseen):
        reason = f"{len(training)} training and {len(unseen)} unseen films; both are needed"
        return missing(MEMBERSHIP, reason, **facts)
    both = np.concatenate([training.features.values, unseen.features.values])
    scores = -nearest(both, source.values).distances[:, 0]
    labels = np.repeat([1.0, 0.0], [len(training), len(unseen)])
    clusters = [*(f"training/{c}" for c in training.clusters), *(f"unseen/{c}" for c in unseen.clusters)]
    area = auroc_interval(scores, labels, clusters)
    few = f"{len(both)} real films, {VERDICT_FROM} are needed" if len(both) < VERDICT_FROM else ""
    if len(source) < SYNTHETIC_FROM:
        few = f"{len(source)} synthetic films, {SYNTHETIC_FROM} are needed"
    return Metric(
        name=MEMBERSHIP,
        value=area.value,
        low=area.low,
        high=area.high,
        n=len(both),
        floor=0.5,
        note=f"no verdict: {few}" if few else None,
        protocol=protocol_id(MEMBERSHIP, 1, source.digest, source.resize, len(source)),
        **facts,
    )


def shared_films(
    training: np.ndarray, unseen: np.ndarray, names: tuple[Sequence[str], Sequence[str]]
) -> list[Leak]:
    """Unseen films that are near-duplicates of a training film, by thumbnails uint8 (n, 1, 64, 64); patients are not compared."""
    parts = {
        side: Part([None] * len(films), keys, prints_of_images(films[:, 0]))
        for side, films, keys in zip(("training", "unseen"), (training, unseen), names, strict=True)
    }
    return between(("training", "unseen"), parts)


def shared_patients(training: Sequence[Any], unseen: Any) -> list[str]:
    """Patients of `unseen` that lie in training data sets of the same folder: each "patient (folder)"."""
    out = []
    for one in training:
        if getattr(one, "root", None) == getattr(unseen, "root", object()):
            both = {p for p in one.patients if p is not None} & set(unseen.patients)
            out += [f"{patient} ({one.root})" for patient in sorted(both)]
    return out
