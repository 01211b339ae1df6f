"""The command table: what each command takes, and which rooms it wires together. Nothing else.

Heavy imports stay inside the commands: `synthaug --help` loads no torch.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from synthaug import __version__, findings, flags, terminal
from synthaug.tables import columns, csv_text
from synthaug.terminal import say

if TYPE_CHECKING:
    from synthaug.datasets.base import Radiographs

app = App(
    name="synthaug",
    help="Label-conditioned synthetic chest radiographs. Research use, not for diagnosis.",
    version=f"synthaug {__version__}",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)


@app.command
def generate(
    *,
    label: flags.Label = None,
    count: flags.Count = 16,
    out: Path | None = None,
    model: flags.Model = "embedded",
    seed: flags.Seed = 0,
    shard_size: flags.ShardSize = 1000,
    num_inference_steps: flags.Steps = None,
    guidance_scale: flags.GuidanceScale = None,
    batch_size: flags.BatchSize = None,
    format: flags.ImageFormat = "png",
    prompt: flags.Prompt = None,
    negative_prompt: flags.NegativePrompt = None,
    view: flags.View = None,
    age: flags.Age = None,
    sex: flags.Sex = None,
    image_size: flags.ImageSize = None,
    device: flags.Device = "auto",
    recipe: flags.Recipe | None = None,
    dry_run: flags.DryRun = False,
) -> None:
    """Draw labelled radiographs into WebDataset shards; the same command resumes.

    Parameters
    ----------
    out
        Output folder; by default ./<label>-<first 8 of the recipe's digest>.
    """
    from synthaug.generation.generate import generate as run

    with terminal.bar("generate") as advance:
        folder = run(
            label or [],
            count=count,
            out=out,
            model=model,
            seed=seed,
            shard_size=shard_size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
            format=format,
            prompt=prompt,
            negative_prompt=negative_prompt,
            view=view,
            age=age,
            sex=sex,
            image_size=image_size,
            device=device,
            recipe=recipe,
            dry_run=dry_run,
            on_progress=lambda p: advance(p.done, p.total, f"{p.images_per_second:.2f} films/s"),
        )
    if not dry_run:
        say(f"{folder}: done; preview.png shows it, `synthaug verify {folder}` checks it")


@app.command
def adapt(
    *,
    recipe: flags.Recipe,
    data: flags.Data,
    out: Path,
    split: flags.Split = None,
    splits_file: flags.SplitsFile = "nih-sample",
    part: Literal["autoencoder", "unet"] | None = None,
    max_steps: int | None = None,
    save_every: int = 500,
    log_with: str | None = None,
    device: flags.Device = "auto",
    compile: Annotated[bool, flags.Switch] = False,
    overrides: flags.Overrides = None,
    skip_bad: flags.SkipBad = False,
) -> None:
    """Train a checkpoint on real films; the same command resumes.

    Parameters
    ----------
    out
        The checkpoint's folder; the training state is kept in OUT/training.
    part
        Train this part alone, beside another process that trains the other.
    max_steps
        Cut every training short, for a trial.
    save_every
        Steps between saved states and sample grids.
    log_with
        tensorboard or wandb.
    compile
        Compile the networks; pays after some hundred steps.
    """
    from synthaug.adaptation.adapt import adapt as run
    from synthaug.adaptation.from_scratch import FromScratchRecipe
    from synthaug.recipes import parse_overrides

    wanted = FromScratchRecipe.load(recipe, parse_overrides(overrides or []))
    films = _films(data, split, splits_file, skip_bad)
    how: dict[str, Any] = {"cpu": device == "cpu", "compiled": compile, "log_with": log_with}
    with terminal.bar("adapt", "steps") as advance:
        for progress in run(wanted, films, out, part=part, max_steps=max_steps, save_every=save_every, **how):
            figures = " ".join(
                f"{key.split('/')[-1]} {value:.4f}" for key, value in progress.record.figures.items()
            )
            advance(progress.record.step, progress.steps, f"{progress.part} {figures}")
    use = "" if part else f"; `synthaug generate --model {out} --label {wanted.findings[-1]}` draws from it"
    say(f"{out}: done{use}")


@app.command
def train(
    *,
    data: flags.Data,
    out: Path,
    arch: flags.Arch = None,
    recipe: flags.Recipe | None = None,
    finding: flags.Findings = None,
    split: flags.Split = None,
    splits_file: flags.SplitsFile = "nih-sample",
    validation: Path | None = None,
    validation_split: str | None = None,
    device: flags.Device = "auto",
    overrides: flags.Overrides = None,
    skip_bad: flags.SkipBad = False,
) -> None:
    """Train a detector on real, synthetic or mixed films; the same command resumes.

    Parameters
    ----------
    out
        The detector's folder.
    validation
        Folder of films to choose by; by default some of the patients of --data.
    validation_split
        Part of --splits-file to choose by, out of --validation or else the last folder of --data.
    """
    from synthaug.detection.train import TrainRecipe, train_detector
    from synthaug.recipes import parse_overrides

    values: dict[str, Any] = parse_overrides(overrides or [])
    if finding:
        values["findings"] = [findings.canonical(name) for name in finding]
    wanted = TrainRecipe.load(recipe, values) if recipe else TrainRecipe().with_overrides(values)
    films = _films(data, split, splits_file, skip_bad)
    held_out = None
    if validation or validation_split:
        held_out = _films([validation or data[-1]], validation_split, splits_file, skip_bad)
    best: dict[str, float] = {}
    with terminal.bar("train", "steps") as advance:
        for record in train_detector(films, arch, wanted, out, validation=held_out, device=device):
            if record.validation is not None and record.best:
                best = record.validation
            advance(record.step, record.steps, f"loss {record.loss:.4f}")
    if best:
        say(
            columns([[name, f"{value:.3f}"] for name, value in best.items()], ["finding", "validation AUROC"])
        )
    say(f"{out}: done; `synthaug predict --detector {out} --data DIR` uses it")


@app.command
def predict(
    *,
    data: Annotated[Path, Parameter(help="Folder of films, real or synthetic.")],
    detector: flags.DetectorSource = "embedded",
    out: Path | None = None,
    device: flags.Device = "auto",
    skip_bad: flags.SkipBad = False,
) -> None:
    """Probabilities of a detector's findings, as CSV.

    Parameters
    ----------
    out
        CSV file; by default the standard output.
    """
    from synthaug.detection import load_detector
    from synthaug.detection import predict as run
    from synthaug.shards import atomic_write

    judge = load_detector(detector, device=device)
    (films,) = _films([data], None, "", skip_bad)
    rows = ([key, *(f"{p:.6f}" for p in row)] for key, row in zip(films.keys, run(judge, films), strict=True))
    text = csv_text(rows, ["key", *judge.findings])
    if out is None:
        say(text.rstrip("\n"))
    else:
        atomic_write(out, text.encode())


@app.command
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


@app.command
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


@app.command(name="findings")
def list_findings(*, as_json: flags.Json = False) -> None:
    """The vocabulary of findings, with other names that are understood."""
    if as_json:
        _dump({name: list(findings.ALIASES[name]) for name in findings.FINDINGS})
    else:
        say(
            columns(
                [[name, ", ".join(findings.ALIASES[name])] for name in findings.FINDINGS], ["finding", "also"]
            )
        )


@app.command
def data(
    folder: Path,
    /,
    *,
    format: str = "auto",
    skip_decode: Annotated[bool, flags.Switch] = False,
    as_json: flags.Json = False,
) -> None:
    """What is this folder: layout, counts, views, ages, patients, unreadable files.

    Parameters
    ----------
    folder
        The folder of films.
    format
        shards, nih, class_folders or csv, where "auto" does not recognise it.
    skip_decode
        Do not decode the films; quicker, but unreadable ones stay unnoticed.
    """
    from synthaug.datasets.summary import describe, summarise

    with terminal.bar("decode") as advance:
        summary = summarise(folder, format, decode=not skip_decode, progress=advance)
    if as_json:
        _dump(summary)
    else:
        say(describe(summary))


@app.command
def verify(folder: Path, /, *, as_json: flags.Json = False) -> int:
    """Check a folder of shards against its manifest; exit code 1 when something is wrong.

    Parameters
    ----------
    folder
        The output of `synthaug generate`.
    """
    from synthaug import shards

    with terminal.bar("verify", "shards") as advance:
        faults = shards.verify(folder, advance)
    if as_json:
        _dump([{"path": f.path, "what": f.what, "found": f.found, "expected": f.expected} for f in faults])
    else:
        for fault in faults:
            say(str(fault))
        say(f"{folder}: {f'{len(faults)} faults' if faults else 'every file is as it was written'}")
    return 1 if faults else 0


@app.command
def models(*, as_json: flags.Json = False) -> None:
    """The checkpoint and the detector inside the package, and the packaged recipes and splits."""
    from synthaug import embedded
    from synthaug.datasets.splits import packaged_splits
    from synthaug.recipes import packaged

    held = {"checkpoint": embedded.checkpoint_facts(), "detector": embedded.detector_facts()}
    if as_json:
        _dump({**held, "recipes": packaged(), "splits": packaged_splits()})
        return
    for kind, facts in held.items():
        say(f"embedded {kind}: {embedded.in_words(facts)}")
    say(f"recipes: {', '.join(packaged())}\nsplits: {', '.join(packaged_splits())}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    return terminal.run(app, sys.argv[1:] if arguments is None else arguments)


def _films(
    folders: Sequence[Path], split: str | None, splits_file: str, skip_bad: bool
) -> "list[Radiographs]":
    from synthaug.datasets import open_radiographs
    from synthaug.datasets.splits import part_of

    opened: list[Radiographs] = [open_radiographs(folder, skip_bad=skip_bad) for folder in folders]
    return [part_of(films, split, splits_file) for films in opened] if split else opened


def _dump(value: Any) -> None:
    say(json.dumps(value, indent=2, ensure_ascii=False))
