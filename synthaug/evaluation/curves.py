"""ROC, precision-recall and reliability of a detector's scores, as points that a page can draw.

Conventions: scores (n,) are probabilities, labels (n,) 1 and 0, both present. Curves are steps thinned to `MOST` points, ends
kept. A bin of the reliability diagram holds about equally many films; its share of present films has Wilson's interval. Shares
are those of the films at hand: balanced films say nothing of how frequent a finding is elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from synthaug.evaluation.intervals import proportion

MOST = 120
BINS = 10
LEAST = 10  # films of a bin


def roc(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
    """(1 - specificity, sensitivity) at every threshold, from (0, 0) to (1, 1)."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(labels, scores)
    return _points(false, true)


def precision_recall(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
    """(recall, precision) at every threshold, recall rising."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    return _points(recall[::-1], precision[::-1])


def reliability(
    scores: np.ndarray, labels: np.ndarray, groups: Sequence[str] | None = None
) -> list[dict[str, float]]:
    """Bins of equal count in the order of the scores: mean score, share of present films, its interval, n.

    Arguments: `groups` (n,), whose films are not independent, patients say; None takes every film for one of its own.
    """
    order = np.argsort(scores, kind="stable")
    count = max(1, min(BINS, len(scores) // LEAST))
    out = []
    for part in np.array_split(order, count):
        present = float((labels[part] == 1).sum())
        owners = range(len(part)) if groups is None else [groups[i] for i in part]
        low, high = proportion((labels[part] == 1).astype(float), owners)
        found = {"score": float(scores[part].mean()), "share": present / len(part), "low": low, "high": high}
        out.append({name: round(value, 5) for name, value in found.items()} | {"n": len(part)})
    return out


def curves(scores: np.ndarray, labels: np.ndarray, **facts: Any) -> dict[str, Any] | None:
    """All three with the facts that name them; None where either label is missing."""
    if len(set(labels.tolist())) < 2:
        return None
    return {
        **facts,
        "present": int((labels == 1).sum()),
        "absent": int((labels == 0).sum()),
        "roc": roc(scores, labels),
        "precision_recall": precision_recall(scores, labels),
        "reliability": reliability(scores, labels),
    }


def _points(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(MOST, len(x))).round().astype(int))
    return [(round(float(x[i]), 5), round(float(y[i]), 5)) for i in kept]
