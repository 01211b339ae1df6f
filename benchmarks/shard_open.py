"""Opening a large folder of shards: seconds and memory, and random access by index.

    python benchmarks/shard_open.py --count 1000000

One shard of 1,000 records is written and hard-linked under the names of the others, so that a million records take
little disk; their indexes are read one by one as any others, out of the page cache. Each line is measured in a
process of its own that has imported its libraries (and torch for SyntheticRadiographs) before the clock starts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from synthaug import shards
from synthaug.record import Record

SHARD = 1000
FINDINGS = ("no_finding", "pleural_effusion", "edema", "cardiomegaly", "pneumothorax")

MEASURE = """
import random, resource, sys, time
from pathlib import Path
folder, what = sys.argv[1:]
if what == "SyntheticRadiographs":
    from synthaug.datasets import SyntheticRadiographs as Opened
    from synthaug.images import read
else:
    from synthaug.shards import ShardSet as Opened

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

base, start = resident(), time.perf_counter()
films = Opened(folder)
count = len(films)
opened, after_open = time.perf_counter() - start, resident()
start = time.perf_counter()
labels = films.labels if what == "SyntheticRadiographs" else films.labels(films.findings)
labelled, after_labels = time.perf_counter() - start, resident()
chance = random.Random(0)
places = [chance.randrange(count) for _ in range(2000)]
start = time.perf_counter()
for place in places:
    films.films[place].source() if what == "SyntheticRadiographs" else films[place]
access = (time.perf_counter() - start) / len(places)
print(f"{what:21} {count:9,} records: open {opened:6.3f} s (+{after_open - base:5.1f} MB), all labels {labels.shape} "
      f"{labelled:6.3f} s (+{after_labels - base:5.1f} MB in all), {access * 1e6:4.0f} us a random sample")
"""


def build(folder: Path, count: int) -> None:
    """A folder of `count` synthetic records, a multiple of 1,000."""

    def samples():  # type: ignore[no-untyped-def]
        for i in range(SHARD):
            labels = {finding: float(i % len(FINDINGS) == place) for place, finding in enumerate(FINDINGS)}
            labels["no_finding"] = float(i % len(FINDINGS) == 0)
            yield (
                Record(f"{i:09d}", labels, view="PA", synthetic=True, provenance={"seed": 0}),
                bytes(400),
                "png",
            )

    first = shards.write_shard(folder, 0, samples())
    entries = [first]
    for number in range(1, count // SHARD):
        entry = replace(first, name=shards.shard_name(number))
        os.link(folder / first.name, folder / entry.name)
        os.link(folder / first.index_name, folder / entry.index_name)
        entries.append(entry)
    shards.write_manifest(folder, entries)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), options.count)
        for what in ("ShardSet", "SyntheticRadiographs"):
            subprocess.run([sys.executable, "-c", MEASURE, name, what], check=True)


if __name__ == "__main__":
    main()
