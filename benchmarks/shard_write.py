"""Writing shards beside webdataset.TarWriter: time and size for the same samples.

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


def measure(
    write: Callable[[Path, int, int], None], count: int, size: int, repeats: int
) -> tuple[float, int]:
    """Seconds (the best round) and bytes written."""
    rounds, written = [], 0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            os.sync()
            start = time.perf_counter()
            write(Path(folder), count, size)
            rounds.append(time.perf_counter() - start)
            written = sum(path.stat().st_size for path in Path(folder).iterdir())
    return min(rounds), written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="samples")
    parser.add_argument("--size", type=int, default=40_000, help="bytes an image")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which the best counts")
    options = parser.parse_args()
    print(f"{options.count} samples of {options.size} bytes")
    for name, write in (("synthaug", ours), ("webdataset.TarWriter", theirs)):
        seconds, written = measure(write, options.count, options.size, options.repeats)
        rate, volume = options.count / seconds, written / seconds / 1e6
        print(f"{name:22} {rate:8.0f} samples/s {volume:7.0f} MB/s {written} bytes")


if __name__ == "__main__":
    main()
