"""Every comparison of speed with its named peer, in turn: a table in RESULTS.md and one figure.

    python benchmarks/run.py [--data NIH] [--only generate --only loader] [--quick]

Rows run one after another in this process, each by the script that also runs alone. The table goes between the markers of
benchmarks/RESULTS.md, the figure to docs/speed.png. `--quick` runs each row at its smallest and writes both into `--out`
(required then): it shows that everything runs, its figures say nothing. Rows that need a GPU where there is none
stand in the table as not run, with the reason; a row that fails does not stop the others, and the exit code is 1.
"""

import argparse
import importlib
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from comparison import Comparison, parser, spread

from synthaug import __version__
from synthaug.diffusion.device import processor_has_bfloat16, usable_processors

HERE = Path(__file__).parent
BEGIN, END = "<!-- speed: written by benchmarks/run.py -->", "<!-- speed: end -->"
VERSIONS = (
    "torch",
    "diffusers",
    "transformers",
    "timm",
    "webdataset",
    "Pillow",
    "faiss-cpu",
    "scipy",
    "numpy",
)


@dataclass(frozen=True)
class Row:
    """One script: its arguments in full and quick, and why it cannot run here, if so."""

    name: str
    script: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    missing: Callable[[argparse.Namespace], str | None] = lambda given: None
    more: Callable[[argparse.Namespace], list[str]] = lambda given: []


def gpu(given: argparse.Namespace) -> str | None:
    """Why rows for a GPU cannot run."""
    if given.quick:
        return "too long for --quick"
    return None if torch.cuda.is_available() else "no GPU here"


SMALL = ("--arch", "test_efficientnet", "--image-size", "64", "--films", "16")
ROWS = (
    Row("start-up", "start_up", quick=("--rounds", "1")),
    Row(
        "generate",
        "generate_vs_diffusers",
        ("--device", "cpu"),
        ("--device", "cpu", "--rounds", "1", "--images", "1", "--plain-images", "1", "--plain-steps", "2"),
    ),
    Row(
        "generate, GPU",
        "generate_vs_diffusers",
        ("--sd15", "--device", "cuda", "--images", "64"),
        missing=gpu,
    ),
    Row(
        "adapt",
        "adapt_vs_diffusers",
        ("--device", "cpu"),
        ("--device", "cpu", "--batch-size", "1", "--steps", "1", "--rounds", "1"),
    ),
    Row(
        "adapt, GPU",
        "adapt_vs_diffusers",
        ("--sd15", "--device", "cuda", "--precision", "bfloat16", "--batch-size", "16"),
        missing=gpu,
    ),
    Row(
        "detector",
        "detector_vs_plain",
        quick=(*SMALL, "--batch-size", "4", "--steps", "4", "--rounds", "1", "--device", "cpu"),
        more=lambda given: ["--data", str(given.data)] if given.data and not given.quick else [],
    ),
    Row(
        "detector, timm",
        "detector_vs_timm",
        ("--device", "cuda", "--amp") if torch.cuda.is_available() else (),
        (*SMALL, "--batch-size", "4", "--steps", "4", "--rounds", "1", "--workers", "0"),
    ),
    Row("PNG encode", "png_encode", quick=("--count", "2", "--rounds", "1", "--size", "128")),
    Row("shard write", "shard_write", quick=("--count", "20", "--rounds", "1")),
    Row("shard read", "shard_read", quick=("--count", "20", "--rounds", "1")),
    Row(
        "loader",
        "loader",
        quick=("--count", "8", "--size", "64", "--image-size", "32", "--workers", "0", "--rounds", "1"),
    ),
    Row("FID solve", "fid_solve", quick=("--films", "50", "--width", "16", "--rounds", "1")),
    Row(
        "neighbours",
        "neighbours",
        ("--rows", "20000", "--peer"),
        ("--rows", "200", "--width", "16", "--threads", "1", "--peer"),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a row: comparisons, or in words why there are none."""

    row: Row
    comparisons: tuple[Comparison, ...] = ()
    reason: str = ""
    failed: bool = False


def measure(row: Row, given: argparse.Namespace) -> Outcome:
    """Run one row; what it raises becomes its reason."""
    if reason := row.missing(given):
        return Outcome(row, reason=f"not run: {reason}")
    threads = torch.get_num_threads()
    try:
        script = importlib.import_module(row.script)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the peers
            asked = script.arguments([*(row.quick if given.quick else row.full), *row.more(given)])
            return Outcome(row, tuple(script.compare(asked)))
    except (Exception, SystemExit) as error:
        return Outcome(
            row, reason=f"failed: {' '.join(str(error).split())[-200:] or type(error).__name__}", failed=True
        )
    finally:
        torch.set_num_threads(threads)


def table(outcomes: list[Outcome], command: str) -> str:
    """The section of RESULTS.md."""
    lines = [
        f"`{command}`, {date.today().isoformat()}, synthaug {__version__}. {hardware()}. Medians (ranges) over the rounds,",
        "in turns with the peer; ratio above 1: synthaug is faster.",
        "",
        "| work | synthaug | peer | its rate | ratio | setting |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        for one in outcome.comparisons:
            cells = [
                one.what,
                f"{spread(one.ours)} {one.unit}",
                one.peer,
                spread(one.theirs),
                f"{one.ratio:.2f}",
            ]
            lines.append("| " + " | ".join([*cells, one.setting]) + " |")
        if outcome.reason:
            lines.append(f"| {outcome.row.name} | {outcome.reason} | | | | |")
    return "\n".join(lines)


def versioned(name: str) -> str:
    """A package with its version, or that it is not here."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def hardware() -> str:
    """Processor, threads, GPU and versions, in one sentence."""
    model = platform.processor() or platform.machine()
    try:
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    except OSError:
        pass
    parts = [model, f"{usable_processors()} processors, {torch.get_num_threads()} threads"]
    parts += ["bf16" if processor_has_bfloat16() else "no bf16"]
    parts += [torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"]
    parts += [f"load {os.getloadavg()[0]:.1f} at the end"] if hasattr(os, "getloadavg") else []
    return "; ".join([*parts, ", ".join(map(versioned, VERSIONS))])


def write(section: str, results: Path) -> None:
    """Put the section between the markers, or at the end of a file without them."""
    text = results.read_text(encoding="utf-8") if results.exists() else ""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## Speed beside named peers\n\n{BEGIN}\n{END}\n".lstrip()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    results.write_text(f"{before}{BEGIN}\n\n{section}\n\n{END}{after}", encoding="utf-8")


def draw(outcomes: list[Outcome], path: Path) -> None:
    """The ratios as bars, on a logarithmic axis."""
    from matplotlib.figure import Figure

    found = [one for outcome in outcomes for one in outcome.comparisons][::-1]
    figure = Figure(figsize=(7, 0.8 + 0.4 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.barh([f"{one.what} / {one.peer}" for one in found], [one.ratio for one in found], log=True)
    for place, one in enumerate(found):
        axes.text(one.ratio, place, f" {one.ratio:.2g}", va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xlabel="speed of synthaug over that of the peer")
    axes.margins(x=0.15)
    figure.savefig(path, dpi=120)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--quick", action="store_true", help="every row at its smallest, into --out")
    given.add_argument(
        "--out", type=Path, help="folder for RESULTS.md and speed.png instead of the repository's"
    )
    given.add_argument("--data", type=Path, help="real films for the detector's row; drawn ones without it")
    given.add_argument(
        "--only", action="append", choices=[row.name for row in ROWS], help="this row; repeatable"
    )
    made = given.parse_args(argv)
    if made.quick and made.out is None:
        given.error("--quick: its figures say nothing; give --out FOLDER")
    return made


def main(argv: list[str] | None = None) -> int:
    given = arguments(argv)
    sys.path.insert(0, str(HERE))
    outcomes = []
    for row in ROWS:
        if given.only and row.name not in given.only:
            continue
        begun = time.perf_counter()
        outcomes.append(measure(row, given))
        what = outcomes[-1].reason or ", ".join(
            f"{one.ratio:.2f} x {one.peer}" for one in outcomes[-1].comparisons
        )
        print(f"{row.name}: {what} ({time.perf_counter() - begun:.1f} s)", flush=True)
    command = " ".join(["python benchmarks/run.py", *(argv if argv is not None else sys.argv[1:])])
    results = HERE / "RESULTS.md" if given.out is None else given.out / "RESULTS.md"
    figure = HERE.parent / "docs" / "speed.png" if given.out is None else given.out / "speed.png"
    results.parent.mkdir(parents=True, exist_ok=True)
    write(table(outcomes, command), results)
    draw(outcomes, figure)
    print(f"{results} and {figure}: written")
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
