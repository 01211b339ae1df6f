"""Kernel distance of two sets of features, KID with Inception's (Binkowski et al., arXiv:1801.01401).

The unbiased squared maximum mean discrepancy under the kernel (x·y / d + 1)³:

    sum_{i≠j} k(x_i, x_j) / n(n-1) + sum_{i≠j} k(y_i, y_j) / m(m-1) - 2 sum_{ij} k(x_i, y_j) / nm

Convention: a kernel is summed by pairs of jackknife blocks, so that leaving a block out costs nothing. The value may be
below 0; its expectation at equal distributions is 0 at any n.
"""

from dataclasses import dataclass

import numpy as np

from synthaug.evaluation.samples import Sample

DEGREE = 3
TILE = 1024


@dataclass(frozen=True, slots=True)
class KernelSums:
    """Sums of the kernel over pairs of blocks, (g, g) within each side without i = j and (g, h) across; films a block."""

    within_a: np.ndarray
    within_b: np.ndarray
    across: np.ndarray
    count_a: np.ndarray
    count_b: np.ndarray


def polynomial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The kernel (n, m) of features (n, d) and (m, d)."""
    return np.asarray((a @ b.T / a.shape[1] + 1) ** DEGREE)


def kernel_sums(a: Sample, b: Sample) -> KernelSums:
    """The statistics of two samples, tile by tile."""
    own_a, own_b = _sums(a, a), _sums(b, b)
    for own, sample in ((own_a, a), (own_b, b)):
        same = ((sample.values**2).sum(1) / sample.values.shape[1] + 1) ** DEGREE
        own[np.diag_indices(len(own))] -= np.bincount(sample.blocks, same, len(own))
    return KernelSums(own_a, own_b, _sums(a, b), np.bincount(a.blocks), np.bincount(b.blocks))


def kernel_distance(sums: KernelSums, without: tuple[int | None, int | None] = (None, None)) -> float:
    """The unbiased squared distance, without a block of either side."""
    a, b = (
        np.array([i != left for i in range(len(count))])
        for left, count in zip(without, (sums.count_a, sums.count_b), strict=True)
    )
    n, m = sums.count_a[a].sum(), sums.count_b[b].sum()
    within = sums.within_a[a][:, a].sum() / (n * (n - 1)) + sums.within_b[b][:, b].sum() / (m * (m - 1))
    return float(within - 2 * sums.across[a][:, b].sum() / (n * m))


def _sums(a: Sample, b: Sample) -> np.ndarray:
    rows, columns = np.eye(int(a.blocks.max()) + 1), np.eye(int(b.blocks.max()) + 1)
    out = np.zeros((len(rows), len(columns)))
    for top in range(0, len(a), TILE):
        left = rows[a.blocks[top : top + TILE]]
        for start in range(0, len(b), TILE):
            kernel = polynomial(a.values[top : top + TILE], b.values[start : start + TILE])
            out += left.T @ kernel @ columns[b.blocks[start : start + TILE]]
    return out
