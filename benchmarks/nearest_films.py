"""Two histograms of an evaluation: distance to the nearest training film, and highest correlation with one.

    synthaug evaluate --synthetic PRESENT ABSENT --real NIH --generator-data NIH FOLDERS --out REPORT
    python benchmarks/nearest_films.py REPORT [--out nearest.png]

Synthetic films beside unseen real ones; the thresholds of the audit are dashed. A generator that copies has films to
the left of the first, or to the right of the second.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from synthaug.evaluation.results import Results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=Path("nearest.png"))
    given = parser.parse_args()
    audit = Results.read(given.report).settings.get("audit")
    if not audit:
        parser.error(f"{given.report} holds no audit; run evaluate with --generator-data")
    with open(given.report / "nearest.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.2))
    for panel, name, cut in zip(
        panels, ("distance", "correlation"), ("distance below", "correlation above"), strict=True
    ):
        sides = {
            side: [float(row[name]) for row in rows if row["side"] == side]
            for side in ("unseen real", "synthetic")
        }
        bins = np.histogram_bin_edges(np.concatenate(list(sides.values())), 30)
        for side, values in sides.items():
            panel.hist(values, bins, alpha=0.55, density=True, label=f"{side} (n = {len(values)})")
        panel.axvline(audit[cut], color="black", linestyle="--", linewidth=0.8)
        panel.set(xlabel=f"{name}, nearest training film", ylabel="density")
        panel.legend()
    figure.tight_layout()
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
