"""Exact nearest-neighbour search over tiles, in bounded memory.

Conventions: queries (m, d) and gallery (n, d) are rows of real numbers; distances are float64, Euclidean or cosine
(1 - cos, in [0, 2]); of two rows at the same distance the one with the lower index is the nearer. The answer is that of
brute force in float64: products are accumulated in float32, a few more candidates than asked for are kept, their distances
are computed again in float64, and a row whose candidates cannot be shown to hold the answer, by the bound of
|fl(x·y) - x·y| <= gamma_d |x| |y| (Higham 2002, 3.1), is searched once more in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from synthaug.errors import DataError

Distance = Literal["euclidean", "cosine"]
SPARE = 8  # candidates kept beyond k
ROUNDING = 2.0**-24  # of float32
DOUBLE_BYTES = 2**27  # of distances that a search in float64 holds at a time


@dataclass(frozen=True, slots=True)
class Neighbours:
    """`distances` float64 (m, k), nearest first, and `indices` int64 (m, k) into the gallery."""

    distances: np.ndarray
    indices: np.ndarray


def nearest(
    queries: np.ndarray, gallery: np.ndarray, k: int = 1, distance: Distance = "euclidean", tile: int = 2048
) -> Neighbours:
    """The k nearest gallery rows of every query.

    Arguments: `queries` (m, d), `gallery` (n, d), n >= k >= 1; `tile` rows of each are multiplied at a time: memory beyond
    the input is one float32 copy of the gallery and `tile`² numbers. Raises `DataError` where the shapes do not fit, a value
    is not finite, or a row of zeros is given an angle.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise DataError(
            f"neighbours: found {queries.shape} and {gallery.shape}, expected (m, d) and (n, d) of one d"
        )
    if not 1 <= k <= len(gallery):
        raise DataError(f"neighbours: {k} of {len(gallery)} rows asked for; expected 1 to {len(gallery)}")
    centre = _centre(gallery, distance)
    columns = np.empty(gallery.shape, np.float32)
    for part in _parts(len(gallery), tile):
        columns[part] = _prepared(gallery[part], distance) - centre
    norms = np.einsum("nd,nd->n", columns, columns, dtype=np.float64)
    kept = min(k + SPARE, len(gallery))
    distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for part in _parts(len(queries), tile):
        rows = _prepared(queries[part], distance)
        scores, found = _candidates(rows - centre, columns, norms, kept, tile)
        found.sort(axis=1)
        squares = np.stack(
            [_squares(row, gallery[at], distance) for row, at in zip(rows, found, strict=True)]
        )
        order = np.argsort(squares, axis=1, kind="stable")[:, :k]
        squares, found = np.take_along_axis(squares, order, 1), np.take_along_axis(found, order, 1)
        if kept < len(gallery):
            open_rows = np.flatnonzero(~_certain(rows - centre, squares[:, -1], scores, norms))
            squares[open_rows], found[open_rows] = _in_double(rows[open_rows], gallery, k, distance, tile)
        distances[part], indices[part] = squares, found
    return Neighbours(distances / 2 if distance == "cosine" else np.sqrt(distances), indices)


def _parts(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _prepared(rows: np.ndarray, distance: Distance) -> np.ndarray:
    """Rows in float64; for the cosine of unit length, where 1 - cos is half the squared distance."""
    out = rows.astype(np.float64)
    if not np.isfinite(out).all():
        raise DataError("neighbours: found values that are not finite, expected features without NaN")
    if distance == "cosine":
        length = np.linalg.norm(out, axis=1, keepdims=True)
        if (length == 0).any():
            raise DataError("neighbours: found a row of zeros, which has no cosine to another")
        out /= length
    return out


def _centre(gallery: np.ndarray, distance: Distance, tile: int = 4096) -> np.ndarray:
    """The gallery's mean: taken off both sides it changes no distance, and shortens what is rounded."""
    total = np.zeros(gallery.shape[1])
    for part in _parts(len(gallery), tile):
        total += _prepared(gallery[part], distance).sum(0)
    return total / len(gallery)


def _candidates(
    rows: np.ndarray, columns: np.ndarray, norms: np.ndarray, kept: int, tile: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `kept` best rows of the gallery by x·y - |y|²/2 in float32: the least score (m,) kept, and indices (m, kept)."""
    left = torch.from_numpy(rows.astype(np.float32))
    right, offset = torch.from_numpy(columns), torch.from_numpy((-norms / 2).astype(np.float32))
    best = torch.full((len(rows), kept), -torch.inf)
    index = torch.zeros((len(rows), kept), dtype=torch.long)
    worst = best[:, -1].clone()
    for part in _parts(len(columns), tile):
        scores = torch.addmm(offset[part], left, right[part].T)
        better = torch.nonzero(scores.amax(1) > worst).squeeze(1)
        if not len(better):
            continue
        value, at = scores[better].topk(min(kept, scores.shape[1]), dim=1, sorted=False)
        value, at = torch.cat([best[better], value], 1), torch.cat([index[better], at + part.start], 1)
        value, order = value.topk(kept, dim=1)
        best[better], index[better] = value, at.gather(1, order)
        worst = best[:, -1].clone()
    return worst.numpy().astype(np.float64), index.numpy()


def _certain(rows: np.ndarray, last: np.ndarray, worst: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Whether every row left out is farther than the k-th distance: its score is at most `worst` and the bound of rounding."""
    length = np.linalg.norm(rows, axis=1)
    longest = float(np.sqrt(norms.max()))
    bound = 1.1 * (rows.shape[1] + 8) * ROUNDING * (length * longest + longest**2 / 2)
    return np.asarray(last < length**2 - 2 * (worst + bound))


def _squares(row: np.ndarray, others: np.ndarray, distance: Distance) -> np.ndarray:
    """Squared Euclidean distances in float64 of one prepared row to gallery rows as given."""
    difference = _prepared(others, distance) - row
    return np.asarray((difference * difference).sum(1))


def _in_double(
    rows: np.ndarray, gallery: np.ndarray, k: int, distance: Distance, tile: int
) -> tuple[np.ndarray, np.ndarray]:
    """Brute force in float64 for a few rows."""
    squares, indices = np.empty((len(rows), k)), np.empty((len(rows), k), np.int64)
    step = max(1, DOUBLE_BYTES // (8 * max(len(gallery), tile * rows.shape[1])))
    for part in _parts(len(rows), step):
        block = np.empty((len(rows[part]), len(gallery)))
        for columns in _parts(len(gallery), tile):
            others = _prepared(gallery[columns], distance)
            for number, row in enumerate(rows[part]):
                difference = others - row
                block[number, columns] = (difference * difference).sum(1)
        for number, values in enumerate(block):
            near = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
            order = near[np.argsort(values[near], kind="stable")][:k]
            squares[part.start + number], indices[part.start + number] = values[order], order
    return squares, indices
