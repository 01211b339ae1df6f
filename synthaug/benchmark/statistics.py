"""Figures of a study whose test patients and whose (subset, seed) draws are both samples.

    d̄      mean over m draws of a statistic, or of a paired difference of two arms
    Var d̄ = S²/m + max(C, 0)

S² is the variance of the statistic over the draws, C the covariance of two draws' statistics that the patients they share
bring about. This is the analysis of readers crossed with cases (Obuchowski & Rockette 1995; Hillis 2007), with draws in
the place of readers; an interval takes t at (S²/m + C)² / ((S²/m)² / (m-1)) degrees of freedom. C comes from the influence
of each film on each draw's statistic, summed over a patient's films (DeLong 1988; Obuchowski 1997 for clusters). A
percentile bootstrap over a handful of draws is too narrow, which is why it is not used here.

Conventions: scores are (m, n) for m draws and n test films; labels (n,) are 1 and 0, both present; patients (n,).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over draws: its interval, standard error, degrees of freedom, and the p-value of "it is zero"."""

    value: float
    low: float
    high: float
    error: float
    freedom: float
    p: float

    def detectable(self, tests: int = 1) -> float:
        """The smallest true effect found with a power of 80 % at two-sided 5 %, shared among `tests` (Bonferroni).

        The two t quantiles added, times the standard error: a close approximation to the noncentral t.
        """
        reach = student.ppf(1 - 0.025 / tests, self.freedom) + student.ppf(0.8, self.freedom)
        return float(reach * self.error)


def auroc_influence(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC, ties counted half, and the influence (n,) of each film, which sums to zero.

    A present film's influence is (share of absent films below it - AUROC) / present films, an absent one's likewise.
    """
    present, absent = scores[labels == 1], scores[labels == 0]
    p, a = len(present), len(absent)
    ranks = rankdata(np.concatenate([present, absent]))
    above = (ranks[:p] - rankdata(present)) / a
    below = 1 - (ranks[p:] - rankdata(absent)) / p
    value = float(above.mean())
    out = np.empty(p + a)
    out[labels == 1] = (above - value) / p
    out[labels == 0] = (below - value) / a
    return value, out


def balanced_accuracy_influence(
    scores: np.ndarray, labels: np.ndarray, threshold: float
) -> tuple[float, np.ndarray]:
    """The mean of sensitivity and specificity at a threshold, and the influence (n,) of each film."""
    correct = (scores >= threshold) == (labels == 1)
    out, value = np.empty(len(scores)), 0.0
    for side in (0, 1):
        share = float(correct[labels == side].mean())
        out[labels == side] = (correct[labels == side] - share) / (2 * (labels == side).sum())
        value += share / 2
    return value, out


def crossed(
    values: np.ndarray, influence: np.ndarray, patients: Sequence[object], confidence: float = 0.95
) -> Figure:
    """The mean of `values` (m,) with draws and patients both random; `influence` is (m, n).

    With one draw, the interval covers patients only, and says nothing of other draws.
    """
    names, group = np.unique(np.asarray([str(p) for p in patients]), return_inverse=True)
    people = len(names)
    by_patient = np.stack([np.bincount(group, row, people) for row in influence])
    covariance = by_patient @ by_patient.T * (people / max(people - 1, 1))
    return spread(values, covariance, people, confidence)


def spread(values: np.ndarray, covariance: np.ndarray, people: int, confidence: float = 0.95) -> Figure:
    """The mean of `values` (m,) over draws, whose covariance (m, m) is what `people` patients bring about."""
    draws, value = len(values), float(values.mean())
    if draws == 1:
        variance, freedom = float(covariance[0, 0]), float(max(people - 1, 1))
    else:
        shared = float(covariance[~np.eye(draws, dtype=bool)].mean())
        own = float(values.var(ddof=1)) / draws
        variance = own + max(shared, 0.0)
        # Draws that agree, but for rounding, leave the patients alone to vary.
        agree = own <= 1e-12 * variance
        freedom = float(max(people - 1, 1)) if agree else min(variance**2 / (own**2 / (draws - 1)), 1e6)
    error = float(np.sqrt(variance))
    if error == 0:
        return Figure(value, value, value, 0.0, freedom, 1.0 if value == 0 else 0.0)
    reach = float(student.ppf((1 + confidence) / 2, freedom)) * error
    p = float(2 * student.sf(abs(value) / error, freedom))
    return Figure(value, value - reach, value + reach, error, freedom, p)


def figure(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[object],
    thresholds: Sequence[float] | None = None,
    other: np.ndarray | None = None,
    other_thresholds: Sequence[float] | None = None,
) -> Figure:
    """AUROC of an arm, or its balanced accuracy where `thresholds` are given; minus that of `other` where there is one.

    Both arms must hold the same draws in the same order: the comparison is paired by draw and by film.
    """
    values, influence = _each(scores, labels, thresholds)
    if other is not None:
        others, their_influence = _each(other, labels, other_thresholds)
        values, influence = values - others, influence - their_influence
    return crossed(values, influence, patients)


def _each(
    scores: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    if thresholds is None:
        found = [auroc_influence(row, labels) for row in scores]
    else:
        found = [
            balanced_accuracy_influence(row, labels, cut) for row, cut in zip(scores, thresholds, strict=True)
        ]
    return np.array([value for value, _ in found]), np.stack([each for _, each in found])


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for their number (Holm 1979): one below .05 holds at 5 % over all of them together."""
    out, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda key: p[key])):
        largest = max(largest, min(1.0, p[name] * (len(p) - rank)))
        out[name] = largest
    return {name: out[name] for name in p}
