"""AUROC, of many weightings of the films at once, and its interval by resampling groups.

Conventions: labels are 1 and 0; scores rise with presence; ties count half. Films of one group, a patient say, are resampled
together.
"""

from collections.abc import Sequence

import numpy as np


def auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """AUROC, ties counted half, for each of many weightings at once.

    Arguments: `scores` (n,), `labels` (n,), `weights` (r, n) or None for one unweighted value. Returns (r,); NaN where a
    weighting leaves no present or no absent film.
    """
    weights = np.ones((1, len(scores))) if weights is None else np.atleast_2d(weights)
    _, level = np.unique(scores, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    present = np.add.reduceat((weights * (labels == 1))[:, order], starts, axis=1)
    absent = np.add.reduceat((weights * (labels == 0))[:, order], starts, axis=1)
    below = np.cumsum(absent, 1) - absent / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (present * below).sum(1) / (present.sum(1) * absent.sum(1))


def resample_groups(
    groups: Sequence[object] | np.ndarray, replicates: int, rng: np.random.Generator
) -> np.ndarray:
    """Bootstrap weights (replicates, n): groups are drawn with replacement, each film as often as its group."""
    names, group = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    return draws[:, group].astype(np.float64)


def auroc_interval(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[object] | np.ndarray,
    replicates: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """AUROC and its percentile interval: (value, low, high), all (n,) in; the interval is NaN where it cannot be had."""
    value = float(auroc(scores, labels)[0])
    drawn = auroc(scores, labels, resample_groups(groups, replicates, np.random.default_rng(seed)))
    kept = drawn[np.isfinite(drawn)]
    if len(kept) < 2 or len(set(groups)) < 2:
        return value, float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return value, float(low), float(high)
