"""Exact search of synthaug.neighbours beside faiss's flat index: time, memory, and whether the answers agree.

    python benchmarks/neighbours.py [--rows 100000] [--width 512] [--k 1] [--threads 2] [--peer]

Rows are drawn from 1,000 clusters on the sphere, as pooled features are: neighbours are near, and many are nearly as near.
`--peer` also runs `faiss.IndexFlatL2` (pip install faiss-cpu) in its own turn, with the same threads.
"""

import argparse
import resource
import time

import numpy as np
import torch

from synthaug.neighbours import nearest


def clustered(rows: int, width: int, seed: int) -> np.ndarray:
    """Unit rows around common centres."""
    centres = np.random.default_rng(0).standard_normal((1000, width), np.float32)
    rng = np.random.default_rng(seed)
    out = centres[rng.integers(1000, size=rows)]
    out += 0.5 * rng.standard_normal((rows, width), np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true")
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    queries, gallery = clustered(given.rows, given.width, 1), clustered(given.rows, given.width, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    found = nearest(queries, gallery, given.k)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    size = f"{given.rows} x {given.rows} x {given.width}, k {given.k}"
    print(
        f"synthaug: {size}: {seconds:.1f} s, {busy:.1f} s of processor time, {grown:.0f} MiB more", flush=True
    )
    if given.peer:
        import faiss

        faiss.omp_set_num_threads(given.threads)
        index = faiss.IndexFlatL2(given.width)
        start, busy = time.perf_counter(), time.process_time()
        index.add(gallery)
        _, at = index.search(queries, given.k)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        print(f"faiss flat: {seconds:.1f} s, {busy:.1f} s of processor time")
        print(f"same neighbours: {(at == found.indices).mean():.6f} of all")


if __name__ == "__main__":
    main()
