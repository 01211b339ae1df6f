"""The Fréchet distance from its moments beside the usual formula through `scipy.linalg.sqrtm`.

    python benchmarks/fid_solve.py [--films 2000] [--width 1280] [--rounds 3]

Both begin with features and end with the distance; the two values are compared. The usual formula is that of most FID code:
covariances, the matrix square root of their product, its trace.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
from comparison import Comparison, parser, show

from synthaug.evaluation.frechet import Moments, frechet_distance


def ours(a: np.ndarray, b: np.ndarray) -> float:
    """By singular values."""
    return frechet_distance(Moments.of(a), Moments.of(b))


def plain(a: np.ndarray, b: np.ndarray) -> float:
    """By the square root of a matrix."""
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(one @ other).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root))


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--films", type=int, default=2000)
    given.add_argument("--width", type=int, default=1280, help="numbers a film")
    given.add_argument("--rounds", type=int, default=3)
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((given.films, given.width)) + shift for shift in (0, 0.1))
    rates: dict[Callable[..., float], list[float]] = {ours: [], plain: []}
    values = {}
    for _ in range(given.rounds):
        for solve, taken in rates.items():
            begun = time.perf_counter()
            values[solve] = solve(a, b)
            taken.append(1 / (time.perf_counter() - begun))
    if abs(values[ours] - values[plain]) > 1e-3 * values[plain] + 1e-6:
        raise SystemExit(f"the distances differ: {values[ours]} and {values[plain]}")
    setting = f"{given.films} + {given.films} films, {given.width} numbers each"
    return [
        Comparison("FID solve", "scipy sqrtm", "solves/s", tuple(rates[ours]), tuple(rates[plain]), setting)
    ]


if __name__ == "__main__":
    show(compare(arguments()))
