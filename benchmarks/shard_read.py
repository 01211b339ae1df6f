"""Reading shards from front to back beside webdataset: samples a second for the same tar.

    python benchmarks/shard_read.py --count 4000

Ours hashes the tar, checks every header and parses every record; `webdataset.WebDataset` gives the raw bytes, and
with `.decode()` parses the JSON. Medians of the rounds; the tar is in the page cache for both.
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
from comparison import Comparison, parser, show

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


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--count", type=int, default=2000)
    given.add_argument("--size", type=int, default=40_000, help="bytes an image")
    given.add_argument("--rounds", type=int, default=5, help="in turns")
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    image = np.random.default_rng(0).bytes(given.size)

    def samples() -> Iterator[tuple[Record, bytes, str]]:
        for i in range(given.count):
            yield Record(f"{i:09d}", {"edema": 1.0}, synthetic=True, provenance={"seed": 0}), image, "png"

    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # webdataset leaves its files to the collector
        folder = Path(name)
        shards.write_manifest(folder, [shards.write_shard(folder, 0, samples())])
        readers: dict[str, Callable[[], int]] = {
            "ours": lambda: ours(folder),
            "raw": lambda: theirs(folder, parse=False),
            "parsed": lambda: theirs(folder, parse=True),
        }
        rates: dict[str, list[float]] = {what: [] for what in readers}
        for _ in range(given.rounds):  # in turns, so that a busy moment strikes all
            for what, reader in readers.items():
                start = time.perf_counter()
                if reader() != given.count:
                    raise SystemExit(f"{what} lost samples")
                rates[what].append(given.count / (time.perf_counter() - start))
                gc.collect()
    setting = f"{given.count} samples of {given.size} bytes; ours hashed, checked and parsed"
    return [
        Comparison(
            "shard read",
            f"webdataset, {peer}",
            "samples/s",
            tuple(rates["ours"]),
            tuple(rates[which]),
            setting,
        )
        for which, peer in (("raw", "raw bytes"), ("parsed", "JSON parsed"))
    ]


if __name__ == "__main__":
    show(compare(arguments()))
