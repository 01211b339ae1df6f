"""Intervals for proportions, AUROC and their differences.

Conventions: an interval is (low, high) at `confidence`; labels are 1 and 0; scores rise with presence. Films of one group
(a patient, or a noise seed of synthetic films) are never taken for independent: they are weighed or resampled together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy.stats import t as student

from synthaug.auroc import auroc, resample_groups

Interval = tuple[float, float]


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927).

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). `n` may be an effective number; n = 0 gives (0, 1).
    """
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    centre = p + z * z / (2 * n)
    reach = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, float((centre - reach) / scale)), min(1.0, float((centre + reach) / scale))


def effective_number(
    outcomes: np.ndarray, groups: Sequence[object] | np.ndarray, weights: np.ndarray | None = None
) -> float:
    """How many independent outcomes a grouped, weighted sample is worth (Kish 1965; Rao and Scott 1992).

    With weights w that sum to 1 and p = Σ w c, the variance over m groups is m/(m-1) Σ_g (Σ_{i in g} w_i (c_i - p))², and
    the number p(1-p) over that, never above 1/Σ w². Where every outcome is the same the variance cannot be measured, and
    each group counts once.
    """
    outcomes = np.asarray(outcomes, np.float64)
    if not len(outcomes):
        return 0.0
    w = np.ones(len(outcomes)) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    names, group = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
    most = float(1 / (w**2).sum())
    if len(names) == len(outcomes):
        return most
    p = float((w * outcomes).sum())
    if len(names) == 1 or len(np.unique(outcomes)) == 1:
        return float(1 / (np.bincount(group, w) ** 2).sum())
    spread = np.bincount(group, w * (outcomes - p))
    variance = len(names) / (len(names) - 1) * float((spread**2).sum())
    return min(most, p * (1 - p) / variance) if variance > 0 else most


def proportion(
    outcomes: np.ndarray,
    groups: Sequence[object] | np.ndarray,
    weights: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Wilson interval of the (weighted) mean of 0/1 outcomes at their effective number."""
    number = effective_number(outcomes, groups, weights)
    mean = float(np.average(outcomes, weights=weights)) if len(outcomes) else 0.0
    return wilson(mean * number, number, confidence)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval and the standard error that the replicates show."""

    value: float
    low: float
    high: float
    error: float

    @property
    def detectable(self) -> float:
        """The smallest true effect that this design finds with a power of 80 % (two-sided 5 %): 2.80 standard errors."""
        normal = NormalDist()
        return (normal.inv_cdf(0.975) + normal.inv_cdf(0.8)) * self.error


def estimate(value: float, replicates: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Percentile interval of bootstrap replicates; NaN replicates are left out."""
    kept = replicates[np.isfinite(replicates)]
    if len(kept) < 2:
        return Estimate(value, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), float(kept.std(ddof=1)))


def accuracy(
    scores: np.ndarray, labels: np.ndarray, threshold: float, weights: np.ndarray, balance: bool = False
) -> np.ndarray:
    """Accuracy (r,) at a threshold for weights (r, n); `balance` gives present and absent films half the weight each."""
    correct = (scores >= threshold) == (labels == 1)
    if not balance:
        return np.asarray((weights * correct).sum(1) / weights.sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        halves = [
            (weights[:, labels == v] * correct[labels == v]).sum(1) / weights[:, labels == v].sum(1)
            for v in (0, 1)
        ]
    return np.asarray((halves[0] + halves[1]) / 2)


Statistic = Literal["AUROC", "accuracy", "balanced accuracy"]


def crossed_bootstrap(
    arms: Mapping[str, np.ndarray],
    labels: np.ndarray,
    patients: Sequence[object],
    statistic: Statistic = "AUROC",
    thresholds: Mapping[str, Sequence[float]] | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Mean over training seeds of a statistic, with patients resampled and crossed with resampled seeds (Owen 2007).

    Arguments: `arms` scores (seeds, n) by arm; all arms share films, patients and seeds, so every replicate is paired;
    `thresholds` (seeds,) by arm, for the accuracies. Returns the values and the replicates (replicates,) by arm; the
    difference of two arms' replicates is that of a paired comparison. One seed alone says nothing of the spread over
    seeds: the interval then covers patients only.
    """
    rng = np.random.default_rng(seed)
    weights = np.concatenate([np.ones((1, len(labels))), resample_groups(patients, replicates, rng)])
    seeds = next(iter(arms.values())).shape[0]
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates) / seeds
    mixing = np.concatenate([np.full((1, seeds), 1 / seeds), drawn])
    values, out = {}, {}
    for arm, scores in arms.items():
        each = []
        for index, row in enumerate(scores):
            if statistic == "AUROC":
                each.append(auroc(row, labels, weights))
            else:
                cut = 0.5 if thresholds is None else thresholds[arm][index]
                each.append(accuracy(row, labels, cut, weights, statistic == "balanced accuracy"))
        mean = (np.stack(each, 1) * mixing).sum(1)
        values[arm], out[arm] = float(mean[0]), mean[1:]
    return values, out


def auroc_interval(
    scores: np.ndarray, labels: np.ndarray, groups: Sequence[object], replicates: int = 2000, seed: int = 0
) -> Estimate:
    """AUROC with its interval by resampling groups."""
    values, draws = crossed_bootstrap({"": scores[None]}, labels, groups, replicates=replicates, seed=seed)
    return estimate(values[""], draws[""])


def jackknife(
    value: np.ndarray | float,
    statistic: Callable[[tuple[int | None, int | None]], np.ndarray | float],
    blocks: tuple[int, int],
    confidence: float = 0.95,
) -> list[Estimate]:
    """Intervals of statistics of two samples, each block of each sample left out in turn (Busing et al. 1999).

    Where a bootstrap would count films twice, and so bias a distance of distributions, the jackknife leaves films out. The
    variance is the sum over both sides of (g-1)/g Σ_b (θ_(b) - mean θ_(b))², the interval value ± t_{g-1} times its root.

    Arguments: `value` the statistic (v,) or a number; `statistic` takes the block that is left out of the first and of the
    second sample, or None; `blocks` the number of each side's. With fewer than two blocks the interval is NaN.
    """
    values = np.atleast_1d(np.asarray(value, np.float64))
    if min(blocks) < 2:
        return [Estimate(float(v), float("nan"), float("nan"), float("nan")) for v in values]
    variance = np.zeros_like(values)
    for side, count in enumerate(blocks):
        left_out = np.stack(
            [np.atleast_1d(statistic((b, None) if side == 0 else (None, b))) for b in range(count)]
        )
        variance += (count - 1) / count * ((left_out - left_out.mean(0)) ** 2).sum(0)
    errors = np.sqrt(variance)
    reach = student.ppf((1 + confidence) / 2, min(blocks) - 1) * errors
    return [
        Estimate(float(v), float(v - r), float(v + r), float(e))
        for v, r, e in zip(values, reach, errors, strict=True)
    ]


def half_samples(
    value: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    blocks: tuple[int, int],
    replicates: int = 60,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Estimate]:
    """Intervals of statistics of two samples from halves of both, drawn without replacement (Politis and Romano 1994).

    A half has the variance of the whole sample around it: the spread of the replicates is the standard error. For
    statistics of nearest neighbours, where the jackknife's error is too large.

    Arguments: `value` (v,); `statistic` takes the blocks that are kept of the first and of the second sample; `blocks` the
    number of each side's. With fewer than four blocks the interval is NaN.
    """
    if min(blocks) < 4:
        return [Estimate(float(v), float("nan"), float("nan"), float("nan")) for v in value]
    rng = np.random.default_rng(seed)
    draws = np.stack(
        [statistic(*(rng.permutation(count)[: count // 2] for count in blocks)) for _ in range(replicates)]
    )
    errors = draws.std(0, ddof=1)
    reach = student.ppf((1 + confidence) / 2, min(blocks) - 1) * errors
    return [
        Estimate(float(v), float(v - r), float(v + r), float(e))
        for v, r, e in zip(value, reach, errors, strict=True)
    ]


def mean_interval(values: np.ndarray, groups: Sequence[object], confidence: float = 0.95) -> Estimate:
    """Mean of values (n,) with the t interval that grouped values allow: groups are independent, films of one are not.

    With m groups the variance is m/(m-1) Σ_g (Σ_{i in g} (v_i - mean) / n)²; one group alone gives no interval.
    """
    values = np.asarray(values, np.float64)
    _, group = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
    count, mean = int(group.max()) + 1, float(values.mean())
    if count < 2:
        return Estimate(mean, float("nan"), float("nan"), float("nan"))
    sums = np.bincount(group, values - mean) / len(values)
    error = float(np.sqrt(count / (count - 1) * (sums**2).sum()))
    reach = float(student.ppf((1 + confidence) / 2, count - 1)) * error
    return Estimate(mean, mean - reach, mean + reach, error)


def median_interval(
    values: np.ndarray, groups: Sequence[object], replicates: int = 2000, seed: int = 0
) -> Estimate:
    """Median of values (n,) with its interval by resampling groups."""
    values = np.asarray(values, np.float64)
    order = np.argsort(values)
    below = resample_groups(groups, replicates, np.random.default_rng(seed))[:, order].cumsum(1)
    return estimate(float(np.median(values)), values[order][(2 * below >= below[:, -1:]).argmax(1)])


def difference(first: tuple[float, float, float], second: tuple[float, float, float]) -> Interval:
    """Interval of p1 - p2 of independent proportions from their own Wilson intervals (Newcombe 1998, method 10).

    Arguments: (p, low, high) of each. d - √((p1 - l1)² + (h2 - p2)²), d + √((h1 - p1)² + (p2 - l2)²).
    """
    (p1, low1, high1), (p2, low2, high2) = first, second
    below, above = np.hypot(p1 - low1, high2 - p2), np.hypot(high1 - p1, p2 - low2)
    return float(p1 - p2 - below), float(p1 - p2 + above)
