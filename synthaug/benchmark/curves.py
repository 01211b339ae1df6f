"""ROC, precision-recall and reliability of an arm: means over its draws, with bands.

    ROC                 mean sensitivity at each 1 - specificity, straight lines between thresholds (Fawcett 2006)
    precision-recall    mean precision at each recall, at the highest threshold that reaches it (Davis & Goadrich 2006)
    reliability         share of present films over the mean probability of a bin, all draws together

Bands are pointwise, with draws and patients both random as in `statistics`; the covariance of two draws comes from resampled
patients, since the ordinate of such a curve has no simple influence. Probabilities are scores calibrated on validation in every
arm alike: a logistic regression of the label on the score (Platt 1999), which changes no ranking of films unless the scores of
validation fall with presence.

Conventions: scores are (m, n) for m draws and n test films; labels (n,) are 1 and 0, both present; patients (n,).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from synthaug.auroc import resample_groups
from synthaug.benchmark.statistics import spread
from synthaug.evaluation.curves import reliability

GRID = np.linspace(0, 1, 41)
REPLICATES = 200


def curves_of(
    scores: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, patients: Sequence[str]
) -> dict[str, Any]:
    """The curves of an arm: points (x, mean, low, high) of `roc` and `precision_recall`, bins of `reliability`.

    Arguments: `probabilities` (m, n), what `calibrated` makes of the scores.
    """
    people = len(set(patients))
    resampled = resample_groups(patients, REPLICATES, np.random.default_rng(0))
    both = (resampled[:, labels == 1].sum(1) > 0) & (resampled[:, labels == 0].sum(1) > 0)
    weights = np.concatenate([np.ones((1, len(labels))), resampled[both]])
    found = [_ordinates(row, labels, weights) for row in scores]
    out: dict[str, Any] = {}
    for place, (name, grid) in enumerate((("roc", GRID), ("precision_recall", GRID[1:]))):
        values = np.stack([each[place] for each in found])  # (draws, 1 + replicates, points)
        points = []
        for column, x in enumerate(grid):
            covariance = np.atleast_2d(np.cov(values[:, 1:, column]))
            at = spread(values[:, 0, column], covariance, people)
            points.append([x, at.value, max(0.0, at.low), min(1.0, at.high)])
        out[name] = [[round(float(number), 4) for number in point] for point in points]
    draws = len(scores)
    out["reliability"] = reliability(probabilities.ravel(), np.tile(labels, draws), list(patients) * draws)
    return out


def calibrated(validation: np.ndarray, truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Probabilities (n,) of scores (n,) by a logistic regression on validation scores and labels, hardly penalised."""
    from sklearn.linear_model import LogisticRegression

    centre, scale = validation.mean(), validation.std() + 1e-9
    model = LogisticRegression(C=100).fit(((validation - centre) / scale)[:, None], truth)
    return np.asarray(model.predict_proba(((scores - centre) / scale)[:, None])[:, 1])


def _ordinates(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity (r, points) over `GRID` and precision over its recalls, for weights (r, n) of the films."""
    order = np.argsort(-scores, kind="stable")
    # Films of one score are called together.
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    cumulated = np.cumsum((weights * (labels == 1))[:, order], 1)[:, ends]
    others = np.cumsum((weights * (labels == 0))[:, order], 1)[:, ends]
    zero = np.zeros((len(weights), 1))
    recall = np.concatenate([zero, cumulated / cumulated[:, -1:]], 1)
    false = np.concatenate([zero, others / others[:, -1:]], 1)
    called = cumulated + others
    # Films that a replicate leaves out are not called; no recall of the grid is reached there.
    precision = np.divide(cumulated, called, out=np.zeros_like(called), where=called > 0)
    roc = np.stack([np.interp(GRID, x, y) for x, y in zip(false, recall, strict=True)])
    reached = np.stack([np.searchsorted(row, GRID[1:] - 1e-9) for row in recall[:, 1:]])
    return roc, np.take_along_axis(precision, reached, 1)
