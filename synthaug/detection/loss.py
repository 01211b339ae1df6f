"""The loss of a detector, and how rare findings are balanced.

Conventions: labels (B, f) are 1, 0 or NaN; what is NaN takes no part.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synthaug.errors import DataError


def sampling_weights(labels: np.ndarray) -> np.ndarray:
    """How often each film is drawn, summing to 1: the mean over its known findings of 1 / (films with the same value).

    A film of a very rare finding is drawn at most four times as often as films are on average.
    """
    share = np.zeros(labels.shape)
    for value in (0.0, 1.0):
        match = labels == value
        share += match / np.maximum(match.sum(0, keepdims=True), 1)
    weights = share.sum(1) / np.maximum((~np.isnan(labels)).sum(1), 1)
    if not weights.any():
        raise DataError("no film has a known label for the findings to learn")
    weights = np.minimum(weights, 4 * weights.mean())
    return weights / weights.sum()


def positive_weights(labels: np.ndarray, balance: str) -> np.ndarray:
    """The weight (f,) of present labels in the loss: absent / present for balance "weights", else 1."""
    if balance != "weights":
        return np.ones(labels.shape[1], np.float32)
    present, absent = (labels == 1).sum(0), (labels == 0).sum(0)
    return np.clip(absent / np.maximum(present, 1), 0.05, 20).astype(np.float32)


def masked_sums(
    logits: Tensor, labels: Tensor, positive: Tensor, emphasis: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy (B, f) summed over known labels, and the weight it is summed over.

    Arguments: `positive` (f,) the weight of present labels; `emphasis` (f,) the weight of a finding.
    """
    known = ~torch.isnan(labels)
    target = torch.where(known, labels, torch.zeros_like(labels))
    smooth = target * (1 - 2 * smoothing) + smoothing
    each = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=positive, reduction="none")
    weight = known * emphasis
    return (each * weight).sum(), weight.sum()


def masked_loss(
    logits: Tensor, labels: Tensor, positive: Tensor, emphasis: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Binary cross-entropy (B, f) averaged over known labels; see `masked_sums`."""
    total, weight = masked_sums(logits, labels, positive, emphasis, smoothing)
    return total / weight.clamp(min=1e-9)
