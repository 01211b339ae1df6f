"""`synthaug evaluate` and `synthaug benchmark`."""

from pathlib import Path
from typing import Annotated, Any

from synthaug import findings
from synthaug.cli import flags, terminal
from synthaug.cli.terminal import say


def evaluate(
    *,
    synthetic: Annotated[list[Path], flags.Many],
    out: flags.Report,
    real: flags.Real = None,
    detector: flags.DetectorSource = "embedded",
    finding: flags.Findings = None,
    split: str = "test",
) -> None:
    """Label fidelity of synthetic films, beside the detector's own accuracy on real ones; sharpness by view.

    Parameters
    ----------
    synthetic
        Folders of synthetic films, read as one: present and absent films may lie apart.
    split
        Part of the packaged split "nih-sample" of the real films, where it names them; "all" takes all.
    """
    from synthaug.datasets import open_radiographs
    from synthaug.evaluation.evaluate import evaluate as run
    from synthaug.evaluation.results import table

    films = [open_radiographs(folder) for folder in synthetic]
    wanted = [findings.canonical(name) for name in finding] if finding else None
    results = run(films, open_radiographs(real) if real else None, detector, wanted, out, split)
    say(table(results.metrics))
    say(f"{out / 'results.json'}: written")


def benchmark(
    *,
    out: flags.Report,
    real: flags.Real = None,
    synthetic: flags.Synthetic = None,
    finding: str | None = None,
    arch: flags.Arch = None,
    seeds: int | None = None,
    synthetic_fraction: float | None = None,
    device: flags.Device = "auto",
    recipe: flags.Recipe | None = None,
    overrides: flags.Overrides = None,
) -> None:
    """Do synthetic films help? A detector trained on real, synthetic, mixed films; the same command resumes.

    Without --real: a demonstration on drawn pictures, which is no evidence.

    Parameters
    ----------
    finding
        The finding to detect; by default pleural_effusion.
    seeds
        Number of training seeds for each arm.
    synthetic_fraction
        Share of synthetic films in the mixed arm; by default all films of both.
    """
    from synthaug.benchmark.study import DEMONSTRATION, StudyRecipe, run_study, verdict
    from synthaug.datasets import open_radiographs
    from synthaug.evaluation.results import Results, table
    from synthaug.recipes import parse_overrides

    given: dict[str, Any] = {
        "finding": findings.canonical(finding) if finding else None,
        "synthetic_fraction": synthetic_fraction,
        "train.arch": arch,
        "seeds": None if seeds is None else list(range(seeds)),
    }
    values = {key: value for key, value in given.items() if value is not None} | parse_overrides(
        overrides or []
    )
    base = StudyRecipe.load(recipe) if recipe else StudyRecipe() if real else DEMONSTRATION
    drawn = [open_radiographs(folder) for folder in synthetic] if synthetic else None
    films = open_radiographs(real) if real else None
    with terminal.bar("benchmark", "cells") as advance:
        for step in run_study(films, drawn, out, base.with_overrides(values), device):
            advance(step.cell, step.cells, f"{step.arm}, seed {step.seed}")
    results = Results.read(out)
    say(f"{results.protocol}\n\n{table(results.metrics)}\n\n{verdict(results)}")
