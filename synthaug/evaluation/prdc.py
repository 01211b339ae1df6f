"""Precision, recall, density, coverage (Kynkaanniemi et al., arXiv:1904.06991; Naeem et al., arXiv:2002.09797).

With r_k(x) the distance from a real x to its k-th nearest other real film:

    precision   share of synthetic films inside the ball of any real film
    recall      share of real films inside the ball of any synthetic film
    density     real balls that a synthetic film lies in, over k, on average
    coverage    share of real films whose ball holds a synthetic film

Conventions: a ball is open, as in the authors' code. All four change with n, so they are compared at equal n only.
"""

from dataclasses import dataclass

import numpy as np

from synthaug.errors import DataError
from synthaug.evaluation.samples import Sample

NAMES = ("precision", "recall", "density", "coverage")
K = 5
MOST = 4000  # films a side whose distances are held


@dataclass(frozen=True, slots=True)
class Distances:
    """Euclidean distances within the real films (n, n), within the synthetic (m, m) and across (n, m), with their blocks."""

    real: np.ndarray
    synthetic: np.ndarray
    across: np.ndarray
    real_blocks: np.ndarray
    synthetic_blocks: np.ndarray


def distances(real: Sample, synthetic: Sample) -> Distances:
    """The statistics of two samples."""
    return Distances(
        pairwise(real.values, real.values),
        pairwise(synthetic.values, synthetic.values),
        pairwise(real.values, synthetic.values),
        real.blocks,
        synthetic.blocks,
    )


def pairwise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, m) in float64."""
    centre = a.mean(0)
    a, b = a - centre, b - centre
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(squares.clip(0)))


def prdc(
    held: Distances, k: int = K, drawn_kept: np.ndarray | None = None, real_kept: np.ndarray | None = None
) -> np.ndarray:
    """The four values in the order of `NAMES`, of all films or of the blocks kept.

    Raises `DataError` where a side has no more than k films.
    """
    drawn = np.isin(held.synthetic_blocks, held.synthetic_blocks if drawn_kept is None else drawn_kept)
    real = np.isin(held.real_blocks, held.real_blocks if real_kept is None else real_kept)
    across = held.across[real][:, drawn]
    if min(across.shape) <= k:
        raise DataError(
            f"PRDC: {across.shape[0]} real and {across.shape[1]} synthetic films; more than {k} are needed"
        )
    inside = across < _radii(held.real[real][:, real], k)[:, None]
    reached = across < _radii(held.synthetic[drawn][:, drawn], k)
    return np.array(
        [inside.any(0).mean(), reached.any(1).mean(), inside.sum(0).mean() / k, inside.any(1).mean()]
    )


def _radii(own: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest distance to another film; the film itself is the nearest of all."""
    np.fill_diagonal(own, 0.0)
    return np.asarray(np.partition(own, k, axis=1)[:, k])
