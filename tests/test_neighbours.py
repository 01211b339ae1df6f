"""Nearest neighbours against brute force in float64, ties and hard cases included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from synthaug import neighbours
from synthaug.errors import DataError
from synthaug.neighbours import Distance, nearest


def brute(
    queries: np.ndarray, gallery: np.ndarray, k: int, distance: Distance
) -> tuple[np.ndarray, np.ndarray]:
    """All distances in float64 by differences, a stable sort."""
    a, b = queries.astype(np.float64), gallery.astype(np.float64)
    if distance == "cosine":
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    squares = ((a[:, None] - b) ** 2).sum(2)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(squares, order, 1)
    return (found / 2 if distance == "cosine" else np.sqrt(found)), order


@given(
    st.integers(0, 10_000),
    st.integers(1, 40),
    st.integers(1, 90),
    st.integers(1, 6),
    st.sampled_from(["euclidean", "cosine"]),
    st.sampled_from([7, 32, 2048]),
    st.booleans(),
)
def test_equals_brute_force(
    seed: int, m: int, n: int, k: int, distance: Distance, tile: int, coarse: bool
) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = rng.normal(1, 1, (m, 5)), rng.normal(1, 1, (n, 5))
    if coarse:  # many equal rows and distances
        queries, gallery = np.round(queries) + 9, np.round(gallery) + 9
    k = min(k, n)
    found = nearest(queries.astype(np.float32), gallery.astype(np.float32), k, distance, tile)
    distances, indices = brute(queries.astype(np.float32), gallery.astype(np.float32), k, distance)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found.indices, indices)


def test_differences_below_the_rounding_of_float32_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 64)
    gallery = base + 1e-9 * rng.normal(0, 1, (400, 64))
    gallery[:100] = base + 3  # another cluster keeps the centre away
    queries = gallery[[150, 399]] + 1e-11
    searched = []
    plain = neighbours._in_double
    monkeypatch.setattr(
        neighbours, "_in_double", lambda rows, *rest: searched.append(len(rows)) or plain(rows, *rest)
    )
    found = nearest(queries, gallery, 3)
    distances, indices = brute(queries, gallery, 3, "euclidean")
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9)
    assert found.indices[:, 0].tolist() == [150, 399] and searched == [2]


def test_ordinary_features_are_settled_without_a_second_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    queries, gallery = rng.random((300, 128), np.float32), rng.random((900, 128), np.float32)
    counted: list[int] = []
    plain = neighbours._in_double
    monkeypatch.setattr(
        neighbours, "_in_double", lambda rows, *rest: counted.append(len(rows)) or plain(rows, *rest)
    )
    found = nearest(queries, gallery, 5, "cosine", tile=256)
    expected, at = (
        NearestNeighbors(n_neighbors=5, algorithm="brute", metric="cosine").fit(gallery).kneighbors(queries)
    )
    np.testing.assert_allclose(found.distances, expected, atol=1e-6)
    np.testing.assert_array_equal(found.indices, at)
    assert sum(counted) == 0


def test_the_order_of_queries_and_the_tile_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    queries, gallery = rng.random((50, 16), np.float32), rng.random((70, 16), np.float32)
    whole, order = nearest(queries, gallery, 4), rng.permutation(50)
    turned = nearest(queries[order], gallery, 4, tile=9)
    np.testing.assert_array_equal(turned.indices, whole.indices[order])
    np.testing.assert_array_equal(turned.distances, whole.distances[order])


@pytest.mark.parametrize(
    ("queries", "gallery", "k", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 2)), 1, "of one d"),
        (np.ones((2, 3)), np.ones((4, 3)), 5, "5 of 4 rows"),
        (np.ones((2, 3)), np.ones((0, 3)), 1, "1 of 0 rows"),
        (np.full((2, 3), np.nan), np.ones((4, 3)), 1, "not finite"),
        (np.zeros((2, 3)), np.ones((4, 3)), 1, "row of zeros"),
    ],
)
def test_what_cannot_be_searched_is_named(
    queries: np.ndarray, gallery: np.ndarray, k: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        nearest(queries, gallery, k, "cosine")
