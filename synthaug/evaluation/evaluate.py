"""`synthaug evaluate`: label fidelity of synthetic films, the detector on real test films beside it, sharpness by view."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthaug.detection.detector import Detector, load_detector
from synthaug.detection.films import hold
from synthaug.errors import DataError
from synthaug.evaluation.label_fidelity import fidelity_metrics, label_fidelity, score
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.results import Metric, Results, missing, table
from synthaug.evaluation.spectrum import SIZE, spectrum_metrics

PROTOCOL = (
    "label fidelity: balanced present and no_finding films, threshold of the detector; Wilson intervals, films of one noise "
    "are one cluster; AUROC by bootstrap of clusters; real films are the detector's own ceiling, patients resampled"
)


def evaluate(
    synthetic: Sequence[Any],
    real: Any | None = None,
    detector: Detector | str | Path = "embedded",
    findings: Sequence[str] | None = None,
    out: str | Path | None = None,
    part: str = "test",
    spectrum_films: int = 400,
) -> Results:
    """Evaluate synthetic data sets and write `results.json` and `results.md` to `out`.

    Arguments: `synthetic` data sets that are read as one (present films in one folder, absent in another, say); `real` the
    films for the ceiling, restricted to `part` where the first-day split knows them; `findings` default to all that the
    synthetic films show present and the detector knows; `spectrum_films` at most so many films a side and view.
    Raises `DataError` where no finding can be evaluated, `UnknownNameError` where the detector lacks one.
    """
    sets = list(synthetic)
    judge = detector if isinstance(detector, Detector) else load_detector(detector, device="auto")
    wanted = list(findings) if findings is not None else _shown(sets, judge)
    metrics: list[Metric] = []
    for finding in wanted:
        metrics += label_fidelity(judge, sets, finding)
    where = "none"
    if real is not None:
        chosen, where = real_part(real, part)
        for finding in wanted:
            scored = score(judge, [chosen], finding, balance=False)
            metrics += fidelity_metrics(scored, finding, judge.config.threshold(finding), "real")
        metrics += spectrum_metrics(
            _by_view(sets, spectrum_films), _by_view([chosen], spectrum_films), "synthetic"
        )
    else:
        metrics.append(
            missing("label accuracy", "no --real: the detector's own ceiling is unknown", arm="real")
        )
    settings = {
        "detector": {
            "arch": judge.config.arch,
            "image_size": judge.config.image_size,
            "start": judge.config.start,
        },
        "findings": wanted,
        "real_part": where,
        "synthetic_films": sum(len(s) for s in sets),
        "thresholds": {f: judge.config.threshold(f) for f in wanted},
    }
    results = Results(kind="evaluate", protocol=PROTOCOL, settings=settings, metrics=metrics)
    if out is not None:
        results.write(out)
        (Path(out) / "results.md").write_text(table(metrics) + "\n")
    return results


def _shown(sets: Sequence[Any], detector: Detector) -> list[str]:
    present = {
        f
        for s in sets
        for f, column in zip(s.findings, np.asarray(s.labels).T, strict=True)
        if (column == 1).any()
    }
    wanted = [f for f in detector.findings if f in present and f != "no_finding"]
    if not wanted:
        raise DataError(
            f"nothing to evaluate: the synthetic films show {', '.join(sorted(present)) or 'no finding'}; "
            f"the detector knows {', '.join(detector.findings)}"
        )
    return wanted


def _by_view(sets: Sequence[Any], most: int) -> dict[str, np.ndarray]:
    """Films by view, at most so many of each; films of unknown view are left out."""
    out: dict[str, np.ndarray] = {}
    for view in ("PA", "AP", "lateral"):
        blocks, left = [], most
        for one in sets:
            indices = [i for i, v in enumerate(one.views) if v == view][:left]
            if indices:
                blocks.append(hold(one.subset(indices), SIZE, (), "squash").images)
                left -= len(indices)
        if blocks:
            out[view] = np.concatenate(blocks)
    return out
