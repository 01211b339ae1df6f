"""Every comparison of speed with its named peer, in turn: a table in RESULTS.md and one figure.

    python benchmarks/run.py [--data NIH] [--only generate --only loader] [--quick]
    python benchmarks/run.py --only detector --with "--steps 8 --rounds 2"

Rows run one after another in this process, each by the script that also runs alone. The table goes between the markers of
benchmarks/RESULTS.md, the figure to docs/speed.png, and what was measured to benchmarks/speed.json, so that rows that were run
before stay in both when `--only` runs others. `--with` gives the script of one row further arguments. `--quick` runs each row at
its smallest and writes all into `--out` (required then): it shows that everything runs, its figures say nothing. Rows that need
a GPU where there is none stand in the table as not run, with the reason; a row that fails does not stop the others, and the
exit code is 1.
"""

import argparse
import importlib
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from comparison import Comparison, parser
from speed_table import Outcome, busy, draw, hardware, load, merged, save, table, write

HERE = Path(__file__).parent


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


def measure(row: Row, given: argparse.Namespace, command: str = "") -> Outcome:
    """Run one row; what it raises becomes its reason."""
    if reason := row.missing(given):
        return Outcome(row.name, reason=f"not run: {reason}", hardware=hardware())
    threads = torch.get_num_threads()
    comparisons: tuple[Comparison, ...] = ()
    reason, failed = "", False
    try:
        script = importlib.import_module(row.script)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the peers
            asked = [*(row.quick if given.quick else row.full), *row.more(given), *shlex.split(given.more)]
            comparisons = tuple(script.compare(script.arguments(asked)))
    except (Exception, SystemExit) as error:
        reason, failed = f"failed: {' '.join(str(error).split())[-200:] or type(error).__name__}", True
    finally:
        torch.set_num_threads(threads)
    today = date.today().isoformat()
    return Outcome(row.name, comparisons, reason, failed, command, today, busy(), hardware())


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--quick", action="store_true", help="every row at its smallest, into --out")
    given.add_argument(
        "--out", type=Path, help="folder for RESULTS.md, speed.png and speed.json instead of the repository's"
    )
    given.add_argument("--data", type=Path, help="real films for the detector's row; drawn ones without it")
    given.add_argument(
        "--only", action="append", choices=[row.name for row in ROWS], help="this row; repeatable"
    )
    given.add_argument("--with", dest="more", default="", help="further arguments of the one row of --only")
    made = given.parse_args(argv)
    if made.more and len(made.only or ()) != 1:
        given.error("--with: arguments are those of one row; name it with --only")
    if made.quick and made.out is None:
        given.error("--quick: its figures say nothing; give --out FOLDER")
    return made


def main(argv: list[str] | None = None) -> int:
    given = arguments(argv)
    sys.path.insert(0, str(HERE))
    command, outcomes = (
        shlex.join(["python", "benchmarks/run.py", *(sys.argv[1:] if argv is None else argv)]),
        [],
    )
    for row in ROWS:
        if given.only and row.name not in given.only:
            continue
        begun = time.perf_counter()
        outcomes.append(measure(row, given, command))
        what = outcomes[-1].reason or ", ".join(
            f"{one.ratio:.2f} x {one.peer}" for one in outcomes[-1].comparisons
        )
        print(f"{row.name}: {what} ({time.perf_counter() - begun:.1f} s)", flush=True)
    results, figure, store = HERE / "RESULTS.md", HERE.parent / "docs" / "speed.png", HERE / "speed.json"
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        results, figure, store = (given.out / path.name for path in (results, figure, store))
    whole = merged(load(store), outcomes, [row.name for row in ROWS])
    save(store, whole)
    write(table(whole), results)
    draw(whole, figure)
    print(f"{results}, {figure} and {store}: written")
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
