"""Exact search of synthaug.neighbours beside faiss's flat index: time, memory, and whether the answers agree.

    python benchmarks/neighbours.py [--rows 100000] [--width 512] [--k 1] [--threads 2] [--peer]

Rows are drawn from 1,000 clusters on the sphere, as pooled features are: neighbours are near, and many are nearly as near.
`--peer` also runs `faiss.IndexFlatL2` (pip install faiss-cpu) in its own turn, with the same threads.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from comparison import Comparison, parser, show

from synthaug.neighbours import nearest


def clustered(rows: int, width: int, seed: int) -> np.ndarray:
    """Unit rows around common centres."""
    centres = np.random.default_rng(0).standard_normal((1000, width), np.float32)
    rng = np.random.default_rng(seed)
    out = centres[rng.integers(1000, size=rows)]
    out += 0.5 * rng.standard_normal((rows, width), np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float, str]:
    """Result, seconds, and the processor time and memory that it took, in words."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    found = work()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return found, seconds, f"{busy:.1f} s of processor time, {grown:.0f} MiB more"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--rows", type=int, default=100_000)
    given.add_argument("--width", type=int, default=512)
    given.add_argument("--k", type=int, default=1)
    given.add_argument("--threads", type=int, default=2)
    given.add_argument("--peer", action="store_true")
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    """One round each; without the peer its rates are empty."""
    before = torch.get_num_threads()
    torch.set_num_threads(given.threads)
    queries, gallery = clustered(given.rows, given.width, 1), clustered(given.rows, given.width, 2)
    found, seconds, cost = timed(lambda: nearest(queries, gallery, given.k))
    torch.set_num_threads(before)
    notes, theirs = {"synthaug": cost}, []
    if given.peer:
        import faiss

        faiss.omp_set_num_threads(given.threads)
        index = faiss.IndexFlatL2(given.width)

        def search() -> np.ndarray:
            index.add(gallery)
            return index.search(queries, given.k)[1]

        at, taken, notes["faiss"] = timed(search)
        notes["same neighbours"] = f"{(at == found.indices).mean():.6f} of all"
        theirs.append(given.rows / taken)
    setting = f"{given.rows} x {given.rows} x {given.width}, k {given.k}, {given.threads} threads"
    rates = (given.rows / seconds,)
    return [Comparison("nearest neighbours", "faiss flat", "queries/s", rates, tuple(theirs), setting, notes)]


if __name__ == "__main__":
    show(compare(arguments()))
