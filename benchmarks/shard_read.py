"""Reading shards from front to back beside webdataset: samples a second for the same tar.

    python benchmarks/shard_read.py --count 4000

Ours hashes the tar, checks every header and parses every record; `webdataset.WebDataset` gives the raw bytes, and
with `.decode()` parses the JSON. Best of the rounds; the tar is in the page cache for both.
"""

import argparse
import gc
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import webdataset

from synthaug import shards
from synthaug.record import Record


def ours(folder: Path) -> int:
    """Samples that `shards.stream` gives."""
    return sum(1 for _ in shards.stream(folder))


def theirs(folder: Path, parse: bool) -> int:
    """Samples that plain webdataset gives."""
    read = webdataset.WebDataset(f"file:{folder}/shard-000000.tar", shardshuffle=False)
    count = 0
    for sample in read:
        if parse:
            json.loads(sample["json"])
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", type=int, default=40_000, help="bytes an image")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # webdataset leaves its files to the collector
    image = np.random.default_rng(0).bytes(options.size)

    def samples() -> Iterator[tuple[Record, bytes, str]]:
        for i in range(options.count):
            yield Record(f"{i:09d}", {"edema": 1.0}, synthetic=True, provenance={"seed": 0}), image, "png"

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards.write_manifest(folder, [shards.write_shard(folder, 0, samples())])
        readers: dict[str, Callable[[], int]] = {
            "synthaug.shards.stream": lambda: ours(folder),
            "webdataset, raw bytes": lambda: theirs(folder, parse=False),
            "webdataset, JSON parsed": lambda: theirs(folder, parse=True),
        }
        best = dict.fromkeys(readers, float("inf"))
        for _ in range(options.repeats):  # in turns, so that a busy moment strikes all
            for what, reader in readers.items():
                start = time.perf_counter()
                if reader() != options.count:
                    raise SystemExit(f"{what} lost samples")
                best[what] = min(best[what], time.perf_counter() - start)
                gc.collect()
        for what, seconds in best.items():
            print(
                f"{what:24} {options.count / seconds:8.0f} samples/s, {best['webdataset, raw bytes'] / seconds:.2f} x webdataset"
            )


if __name__ == "__main__":
    main()
