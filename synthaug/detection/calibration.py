"""What is chosen on validation films: the AUROC that decides, thresholds, temperature.

Conventions: scores are (n, findings), labels the same shape with 1, 0 or NaN; where a finding lacks present or absent
films it is left out, never guessed.
"""

from collections.abc import Sequence

import numpy as np


def auroc_by_finding(scores: np.ndarray, labels: np.ndarray, findings: Sequence[str]) -> dict[str, float]:
    """AUROC of each finding that has both present and absent films."""
    from sklearn.metrics import roc_auc_score

    out = {}
    for column, finding in enumerate(findings):
        known = ~np.isnan(labels[:, column])
        values = labels[known, column]
        if len(np.unique(values)) == 2:
            out[finding] = float(roc_auc_score(values, scores[known, column]))
    return out


def youden_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold of the largest sensitivity + specificity (Youden 1950), midway between the two scores it parts.

    Arguments: `scores` (n,), `labels` (n,) with 1 and 0, both present.
    """
    order = np.argsort(scores, kind="stable")
    ordered, values = scores[order].astype(np.float64), labels[order]
    present, absent = (values == 1).sum(), (values == 0).sum()
    specificity = np.concatenate([[0], np.cumsum(values == 0)]) / absent
    sensitivity = 1 - np.concatenate([[0], np.cumsum(values == 1)]) / present
    cuts = np.concatenate(
        [[ordered[0]], (ordered[1:] + ordered[:-1]) / 2, [np.nextafter(ordered[-1], np.inf)]]
    )
    distinct = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])
    gain = np.where(distinct, sensitivity + specificity, -np.inf)
    return float(cuts[int(np.argmax(gain))])


def choose_thresholds(
    probabilities: np.ndarray, labels: np.ndarray, findings: Sequence[str], absent: str = "known"
) -> dict[str, float]:
    """Youden's threshold of each finding.

    Arguments: `absent` "known" tells a finding from all films without it, "no_finding" from `no_finding` films alone.
    """
    healthy = labels[:, list(findings).index("no_finding")] == 1 if "no_finding" in findings else None
    out = {}
    for column, finding in enumerate(findings):
        values = labels[:, column]
        used = ~np.isnan(values)
        if absent == "no_finding" and healthy is not None and finding != "no_finding":
            used &= (values == 1) | healthy
        if len(np.unique(values[used])) == 2:
            out[finding] = round(youden_threshold(probabilities[used, column], values[used]), 6)
    return out


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The one temperature of the least cross-entropy over all known labels (Guo et al. 2017), searched from 0.1 to 10."""
    known = ~np.isnan(labels)
    if not known.any():
        return 1.0
    logit, target = scores[known].astype(np.float64), labels[known]
    grid = np.geomspace(0.1, 10, 401)
    losses = [np.mean(np.logaddexp(0, logit / t) - target * logit / t) for t in grid]
    return round(float(grid[int(np.argmin(losses))]), 4)
