"""Near-duplicates and shared patients across the splits of a folder: counts alone, no film is named.

python benchmarks/leakage.py FOLDER
"""

import argparse
import time
from itertools import combinations
from pathlib import Path

from synthaug.datasets import RealRadiographs
from synthaug.datasets.leakage import counts, find
from synthaug.datasets.likeness import near_pairs, prints_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    films = RealRadiographs(options.folder, views="all")
    splits = [record.provenance.get("split") for record in films.records]
    parts = {
        str(split): films.subset([place for place, own in enumerate(splits) if own == split])
        for split in dict.fromkeys(splits)
    }
    start = time.perf_counter()
    found = {(line["kind"], *line["parts"]): line for line in counts(find(parts))}
    for border in combinations(parts, 2):
        for kind in ("patient", "near-duplicate"):
            line = found.get((kind, *border), {"pairs": 0, "films": [0, 0]})
            print(f"{border[0]} | {border[1]}: {line['pairs']} {kind} pairs, films {line['films']}")
    for name, part in parts.items():
        print(
            f"within {name} ({len(part)} films): {len(near_pairs(prints_of(part.films)))} near-duplicate pairs"
        )
    print(f"{len(films)} films, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
