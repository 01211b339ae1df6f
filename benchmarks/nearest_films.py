"""Does the generator copy? Synthetic films and their nearest training film, beside unseen real films.

    python benchmarks/nearest_films.py --synthetic DIR [--synthetic DIR ...] --real NIH [--part validation]
        [--training DIR ...] [--detector DET] [--out nearest-films]

The training films are part `generator` of the first-day split, and whatever `--training` adds. Unseen real
films are those of the part, of other patients. Prints the figures, writes `nearest.png` (two histograms:
distance of 64 x 64 pixels, and of detector features) and `nearest-synthetic.png` (the synthetic films nearest
to a training film, nearest first; never a real film).
"""

import argparse
from pathlib import Path

import numpy as np

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection import hold, load_detector
from synthaug.evaluation.nearest import (
    Extractor,
    NearestFilms,
    detector_features,
    nearest_films,
    nearest_metrics,
    pixel_features,
)
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.results import table
from synthaug.images import contact_sheet, encode

SIZE = 256


def histograms(found: list[NearestFilms], path: Path) -> None:
    """One panel an extractor: synthetic and unseen real films on the same bins."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(5 * len(found), 3.2), squeeze=False)
    for panel, one in zip(panels[0], found, strict=True):
        bins = np.histogram_bin_edges(np.concatenate([one.synthetic, one.real]), 30)
        for values, name in ((one.real, "unseen real"), (one.synthetic, "synthetic")):
            panel.hist(values, bins, alpha=0.55, density=True, label=f"{name} (n = {len(values)})")
        panel.set(xlabel=f"distance to the nearest training film ({one.extractor})", ylabel="density")
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--synthetic", action="append", required=True)
    parser.add_argument("--real", required=True)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--training", action="append", default=[])
    parser.add_argument("--detector", default=None, help="adds distances in the features of this detector")
    parser.add_argument("--out", type=Path, default=Path("nearest-films"))
    given = parser.parse_args()

    real = RealRadiographs(given.real, min_age=18)
    sources = [real_part(real, "generator")[0], *(RealRadiographs(folder) for folder in given.training)]
    training = hold(sources, SIZE, ()).images
    unseen = hold(real_part(real, given.part)[0], SIZE, ()).images
    synthetic = hold([SyntheticRadiographs(folder) for folder in given.synthetic], SIZE, ()).images

    extractors: dict[str, Extractor] = {"pixels": pixel_features}
    if given.detector is not None:
        extractors["detector"] = detector_features(load_detector(given.detector))
    found = [
        nearest_films(synthetic, training, unseen, extract, name) for name, extract in extractors.items()
    ]
    print(f"{len(training)} training films, {len(unseen)} unseen real films of part {given.part}")
    print(table(metric for one in found for metric in nearest_metrics(one)))
    given.out.mkdir(parents=True, exist_ok=True)
    histograms(found, given.out / "nearest.png")
    closest = np.argsort(found[0].synthetic, kind="stable")[:16]
    captions = [f"{found[0].synthetic[i]:.3f}" for i in closest]
    (given.out / "nearest-synthetic.png").write_bytes(encode(contact_sheet(synthetic[closest], 8, captions)))


if __name__ == "__main__":
    main()
