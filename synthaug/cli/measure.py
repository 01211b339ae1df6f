"""`synthaug evaluate` and `synthaug benchmark`."""

from pathlib import Path
from typing import Annotated, Any

from synthaug import findings
from synthaug.cli import flags, terminal
from synthaug.cli.report import command_line
from synthaug.cli.terminal import say


def evaluate(
    *,
    synthetic: Annotated[list[Path], flags.Many],
    out: flags.Report,
    real: flags.Real = None,
    generator_data: Annotated[list[Path] | None, flags.Many] = None,
    detector: Annotated[list[str] | None, flags.Many] = None,
    finding: flags.Findings = None,
    split: str = "validation",
    extractor: Annotated[list[str] | None, flags.Many] = None,
    empty_prompt: Path | None = None,
    text_model: Path | None = None,
    model: str | None = None,
    rate: float = 0.01,
    exclude: Path | None = None,
    cache: Path | None = None,
    min_age: float | None = None,
    show_real: Annotated[bool, flags.Switch] = False,
    device: flags.Device = "auto",
) -> None:
    """Are synthetic films true to their labels, like real ones, and no copies? Figures and a report.

    Parameters
    ----------
    synthetic
        Folders of synthetic films, read as one: present and absent films may lie apart.
    generator_data
        Folders of the films that the generator was trained on; of films that the split names, its part "generator".
    detector
        Detectors that judge the labels: "embedded" (the default) or folders.
    split
        Part of the packaged split "nih-sample" of the real films, where it names them; "all" takes all.
    extractor
        Features to compare films by: imagenet, embedded, pixels, or the folder of a detector or DINOv2 model.
    empty_prompt
        Folder of films drawn without a prompt, as a control of the labels.
    text_model
        Folder of a CLIP-like model, to measure image-text alignment.
    model
        Checkpoint whose autoencoder is measured on the real films: "embedded" or a folder.
    rate
        Share of innocent films that the privacy audit may list.
    exclude
        Folder for shards without the films that the audit lists.
    cache
        Folder that keeps features between runs.
    min_age
        Leave out real films of patients not known to be this old.
    show_real
        Put real films into the report, which then must stay where they may be seen.
    """
    from synthaug.datasets import RealRadiographs, open_radiographs
    from synthaug.evaluation.evaluate import Options
    from synthaug.evaluation.evaluate import evaluate as run
    from synthaug.evaluation.results import table
    from synthaug.report.page import write_page

    given: dict[str, Any] = {
        "--synthetic": [folder.name for folder in synthetic],
        "--real": real and real.name,
        "--generator-data": [folder.name for folder in generator_data or []],
        "--detector": [Path(name).name for name in detector or []],
        "--finding": finding,
        "--split": split,
        "--extractor": [Path(name).name for name in extractor or []],
        "--empty-prompt": empty_prompt and empty_prompt.name,
        "--text-model": text_model and text_model.name,
        "--model": model and Path(model).name,
        "--rate": rate,
        "--min-age": min_age,
    }
    options = Options(
        extractors=extractor or (),
        generator_data=[RealRadiographs(folder) for folder in generator_data or []],
        empty_prompt=open_radiographs(empty_prompt) if empty_prompt else None,
        text_model=text_model,
        model=model,
        rate=rate,
        exclude=exclude,
        cache=cache,
        device=device,
        show_real=show_real,
        command=command_line("evaluate", given),
    )
    films = [open_radiographs(folder) for folder in synthetic]
    unseen = RealRadiographs(real, min_age=min_age) if real else None
    wanted = [findings.canonical(name) for name in finding] if finding else None
    results = run(films, unseen, detector or "embedded", wanted, out, split, options, terminal.note)
    page = write_page(out, results)
    say(table(results.metrics))
    say(f"{page}: written, beside results.json")


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
