"""`synthaug train` and `synthaug predict`."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from synthaug import findings
from synthaug.cli import flags, terminal
from synthaug.cli.opening import open_films
from synthaug.cli.terminal import say
from synthaug.tables import columns, csv_text


def train(
    *,
    data: flags.Data,
    out: Path,
    arch: flags.Arch = None,
    recipe: flags.Recipe | None = None,
    finding: flags.Findings = None,
    split: flags.Split = None,
    splits_file: flags.SplitsFile = "nih-sample",
    validation: str | None = None,
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
    from synthaug.detection.finishing import told
    from synthaug.detection.train import TrainRecipe, train_detector
    from synthaug.recipes import parse_overrides

    values: dict[str, Any] = parse_overrides(overrides or [])
    if finding:
        values["findings"] = [findings.canonical(name) for name in finding]
    wanted = TrainRecipe.load(recipe, values) if recipe else TrainRecipe().with_overrides(values)
    films = open_films(data, split, splits_file, skip_bad)
    held_out = None
    if validation or validation_split:
        held_out = open_films([validation or data[-1]], validation_split, splits_file, skip_bad)
    with terminal.bar("train", "steps") as advance:
        for record in train_detector(films, arch, wanted, out, validation=held_out, device=device):
            advance(record.step, record.steps, "" if record.loss is None else f"loss {record.loss:.4f}")
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        rows = told(json.loads((out / "config.json").read_bytes())["training"]["validation"])
        if rows:
            say(columns(rows, ["finding", "validation AUROC", "95 %, patients resampled", "films"]))
        say(f"{out}: done; `synthaug predict --detector {out} --data DIR` uses it")


def predict(
    *,
    data: Annotated[str, Parameter(help="Folder of films, real or synthetic, or URL of shards.")],
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
    (films,) = open_films([data], None, "", skip_bad)
    rows = ([key, *(f"{p:.6f}" for p in row)] for key, row in zip(films.keys, run(judge, films), strict=True))
    text = csv_text(rows, ["key", *judge.findings])
    if out is None:
        say(text.rstrip("\n"))
    else:
        atomic_write(out, text.encode())
