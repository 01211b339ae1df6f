"""Detectors beside each other on the same real films: AUROC, accuracy, sensitivity, specificity, patients resampled.

    python benchmarks/detectors.py --real NIH --detector embedded --detector JUDGE [--part validation|test]
        [--finding pleural_effusion] [--device auto]

A finding is told from `no_finding` films, as a certificate tells it. The default part is `validation`, on which thresholds,
and for trained networks the step, were chosen, so accuracies there are kind; `test` is opened once a release.
"""

import argparse

import numpy as np

from synthaug.datasets import RealRadiographs
from synthaug.evaluation.intervals import crossed_bootstrap, estimate
from synthaug.evaluation.label_fidelity import fidelity_metrics, judges, score
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.results import Metric, table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True)
    parser.add_argument("--detector", action="append", required=True)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--finding", default="pleural_effusion")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()

    labels = (given.finding, "no_finding")
    real = real_part(RealRadiographs(given.real, min_age=18, findings=labels), given.part)[0]
    real = real.subset(np.flatnonzero((real.labels == 1).any(1)))
    metrics: list[Metric] = []
    scores: dict[str, np.ndarray] = {}
    for judge in judges(given.detector, given.device):
        scored = score(judge.detector, [real], given.finding, balance=False)
        scores[judge.name] = scored.scores[None]
        threshold = judge.detector.config.threshold(given.finding)
        metrics += fidelity_metrics(scored, given.finding, threshold, "real", judge=judge)
    values, draws = crossed_bootstrap(scores, scored.labels, scored.clusters)
    first, *others = scores
    for name in others:
        gap = estimate(values[name] - values[first], draws[name] - draws[first])
        facts = {"value": gap.value, "low": gap.low, "high": gap.high, "n": len(scored.labels)}
        metrics.append(Metric(name="AUROC difference", arm="real", extractor=f"{name} - {first}", **facts))
    print(
        f"{int(scored.labels.sum())} films with the finding, {int((1 - scored.labels).sum())} without, part {given.part}\n"
    )
    print(table(metrics))


if __name__ == "__main__":
    main()
