"""`benchmarks/autoencoder_likeness.py`: the paired distance against its definition, hybrids against their halves."""

from collections.abc import Iterator
from types import ModuleType

import benchmark_scripts
import numpy as np
import pytest


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with benchmark_scripts.script("autoencoder_likeness") as module:
        yield module


def test_the_paired_distance_is_its_definition_and_its_error_that_of_leaving_films_out(
    script: ModuleType,
) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(12, 5))
    b = a + rng.normal(0.2, 0.3, size=a.shape)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 5 + 1) ** 3)

    def distance(rows: list[int]) -> float:
        pairs = [(i, j) for i in rows for j in rows if i != j]
        terms = [
            kernel(a[i], a[j]) + kernel(b[i], b[j]) - kernel(a[i], b[j]) - kernel(b[i], a[j])
            for i, j in pairs
        ]
        return float(np.mean(terms))

    rows = list(range(12))
    without = np.array([distance([i for i in rows if i != left]) for left in rows])
    value, error = script.paired_distance(a.astype(np.float32), b.astype(np.float32))
    assert value == pytest.approx(distance(rows), rel=1e-4)
    assert error == pytest.approx(np.sqrt(11 * without.var()), rel=1e-3)
    assert script.paired_distance(a, a) == pytest.approx((0, 0), abs=1e-12)


def test_a_hybrid_takes_what_is_coarse_from_one_film_and_what_is_fine_from_the_other(
    script: ModuleType,
) -> None:
    x = np.arange(64) * 2 * np.pi / 64
    coarse, fine = (127 + 60 * np.cos(cycles * x)[None, None, None] * np.ones((64, 1)) for cycles in (2, 24))
    flat = np.full((1, 1, 64, 64), 127, np.uint8)
    both = (coarse + fine - 127).round().astype(np.uint8)
    for made, expected in (
        (script.hybrid(both, flat, 12), coarse),
        (script.hybrid(flat, both, 12), fine),
        (script.hybrid(both, both, 12), both),
    ):
        assert made.dtype == np.uint8
        assert np.abs(made - expected).max() <= 1
