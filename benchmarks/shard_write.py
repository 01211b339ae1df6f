"""Writing shards beside webdataset.TarWriter: samples a second, in turns.

    python benchmarks/shard_write.py --count 2000

Ours also hashes, indexes and fsyncs; TarWriter does none of these. Both write to a temporary folder.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import webdataset
from comparison import Comparison, parser, show

from synthaug import shards
from synthaug.record import Record


def samples(count: int, size: int) -> Iterator[tuple[Record, bytes, str]]:
    """Synthetic records with bytes in the place of an encoded image."""
    image = np.random.default_rng(0).bytes(size)
    provenance = {"seed": 0, "guidance_scale": 3.0, "num_inference_steps": 20, "scheduler": "dpmsolver++"}
    for i in range(count):
        yield (
            Record(f"{i:09d}", {"pleural_effusion": 1.0}, synthetic=True, provenance=provenance),
            image,
            "png",
        )


def ours(folder: Path, count: int, size: int) -> None:
    """One shard with its index and the manifest."""
    shards.write_manifest(folder, [shards.write_shard(folder, 0, samples(count, size))])


def theirs(folder: Path, count: int, size: int) -> None:
    """One tar by webdataset."""
    with webdataset.TarWriter(str(folder / "shard-000000.tar")) as tar:
        for record, image, extension in samples(count, size):
            tar.write({"__key__": record.key, extension: image, "json": record.to_bytes()})


def timed(write: Callable[[Path, int, int], None], count: int, size: int) -> float:
    """Seconds of one round."""
    with tempfile.TemporaryDirectory() as folder:
        os.sync()
        start = time.perf_counter()
        write(Path(folder), count, size)
        return time.perf_counter() - start


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--count", type=int, default=1000, help="samples")
    given.add_argument("--size", type=int, default=40_000, help="bytes an image")
    given.add_argument("--rounds", type=int, default=5, help="in turns")
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    rates: dict[Callable[[Path, int, int], None], list[float]] = {ours: [], theirs: []}
    for _ in range(given.rounds):
        for write, taken in rates.items():
            taken.append(given.count / timed(write, given.count, given.size))
    setting = f"{given.count} samples of {given.size} bytes, hash, index and fsync included"
    fast, slow = tuple(rates[ours]), tuple(rates[theirs])
    return [Comparison("shard write", "webdataset TarWriter", "samples/s", fast, slow, setting)]


if __name__ == "__main__":
    show(compare(arguments()))
