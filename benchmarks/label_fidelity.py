"""Label fidelity of a checkpoint without gating: COUNT present and COUNT absent films, seeds not shared.

    python benchmarks/label_fidelity.py --real NIH [--part validation|test] [--count 200]
        [--detector embedded ...] [--model embedded] [--finding pleural_effusion] [--view PA] [--out label-fidelity]

Draws the films (the same command resumes), scores them with detectors trained on real films, and prints the figures beside the
detectors' own on real films of the part; `synthaug evaluate --controls` adds a certificate's controls. The default part is
`validation`, on which the detectors' thresholds were chosen; `test` is opened once a release, and each opening is logged.
"""

import argparse
from pathlib import Path

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.evaluation.evaluate import evaluate
from synthaug.evaluation.results import table
from synthaug.generation import generate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--detector", nargs="+", default=["embedded"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--finding", default="pleural_effusion")
    parser.add_argument("--view", default=None)
    parser.add_argument("--out", type=Path, default=Path("label-fidelity"))
    given = parser.parse_args()

    folders = []
    for seed, label in enumerate((given.finding, "no_finding")):
        out = given.out / label
        generate(label, count=given.count, seed=seed, out=out, model=given.model, view=given.view)
        folders.append(SyntheticRadiographs(out))
    real = RealRadiographs(given.real, min_age=18)
    results = evaluate(folders, real, given.detector, [given.finding], given.out, given.part)
    print(table(results.metrics))


if __name__ == "__main__":
    main()
