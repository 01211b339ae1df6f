"""Frechet distance of two sets of features, FID with Inception's (Heusel et al., arXiv:1706.08500).

    |m_a - m_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)

Convention: a covariance S (d, d), with n - 1, is kept as a root R (r, d) with S = RᵀR. Then tr (S_a S_b)^(1/2) is the sum of
the singular values of R_a R_bᵀ: no matrix square root, nothing complex, and no harm where S has not full rank. The value
from a finite sample is too large, the more so the fewer films: it is compared at equal n only.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from synthaug.errors import DataError

UNBIASED_FROM = 2000  # films, below which a metric is marked


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean (d,) and root of the covariance (r, d), r <= d."""

    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Self:
        """The moments of features (n, d), n >= 2."""
        if features.ndim != 2 or len(features) < 2:
            raise DataError(f"moments: found features {features.shape}, expected (n, d) with n of 2 or more")
        values = features.astype(np.float64)
        mean = values.mean(0)
        root = (values - mean) / np.sqrt(len(values) - 1)
        return cls(mean, np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root)

    @classmethod
    def from_covariance(cls, mean: np.ndarray, covariance: np.ndarray) -> Self:
        """The moments of a given mean (d,) and covariance (d, d)."""
        values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
        return cls(np.asarray(mean, np.float64), np.sqrt(values.clip(0))[:, None] * vectors.T)

    @property
    def covariance(self) -> np.ndarray:
        """S (d, d)."""
        return np.asarray(self.root.T @ self.root)


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Frechet distance between two normal distributions of these moments, never below 0."""
    if len(a.mean) != len(b.mean):
        raise DataError(
            f"Frechet distance: features of {len(a.mean)} and {len(b.mean)} numbers; expected one extractor"
        )
    cross = torch.linalg.svdvals(torch.from_numpy(np.ascontiguousarray(a.root @ b.root.T)))
    shift = float(((a.mean - b.mean) ** 2).sum())
    spread = float((a.root**2).sum() + (b.root**2).sum())
    return max(0.0, shift + spread - 2 * float(cross.sum()))
