"""The table and the figure of `run.py`, from what each row measured last; kept in a file, so that rows may be run one by one."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import torch
from comparison import Comparison, number, spread

from synthaug import __version__
from synthaug.diffusion.device import processor_has_bfloat16, usable_processors

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
class Outcome:
    """What became of a row: comparisons, or in words why there are none; where, when and by which command."""

    row: str
    comparisons: tuple[Comparison, ...] = ()
    reason: str = ""
    failed: bool = False
    command: str = ""
    date: str = ""
    load: float = 0.0
    hardware: str = ""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `asdict` gave."""
        held = [
            Comparison(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()})
            for one in values.pop("comparisons")
        ]
        return cls(**values, comparisons=tuple(held))


def load(path: Path) -> dict[str, Outcome]:
    """What is kept, by row."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {one["row"]: Outcome.from_json(one) for one in kept}


def save(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Keep them."""
    kept = [asdict(outcome) for outcome in outcomes]
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def table(outcomes: Sequence[Outcome]) -> str:
    """The section of RESULTS.md."""
    lines = [
        "Medians (ranges) over rounds in turns with the peer; ratio above 1: synthaug is faster (range: that of the rounds).",
        "",
        "| work | synthaug | peer | its rate | ratio | setting | run |",
        "|---|---|---|---|---|---|---|",
    ]
    runs = dict.fromkeys((one.command, one.date, f"{one.load:.1f}") for one in outcomes if one.command)
    letters = dict(zip(runs, "abcdefghijklmnopqrstuvwxyz", strict=False))
    for outcome in outcomes:
        letter = letters.get((outcome.command, outcome.date, f"{outcome.load:.1f}"), "")
        for one in outcome.comparisons:
            low, high = one.between
            cells = [
                one.what,
                f"{spread(one.ours)} {one.unit}",
                one.peer,
                spread(one.theirs),
                f"{one.ratio:.2f} ({number(low)} to {number(high)})",
                one.setting,
                letter,
            ]
            lines.append("| " + " | ".join(cells) + " |")
        if outcome.reason:
            lines.append(f"| {outcome.row} | {outcome.reason} | | | | | {letter} |".replace("|  |", "| |"))
    lines += ["", *(f"- {letters[run]}: `{run[0]}`, {run[1]}, load {run[2]} at the end" for run in runs)]
    machines = [
        (machine, [one.row for one in some]) for machine, some in groupby(outcomes, lambda one: one.hardware)
    ]
    for machine, rows in machines:
        lines.append(f"- {'; '.join(rows) if len(machines) > 1 else 'all rows'}: {machine}")
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
    return "; ".join([*parts, ", ".join([f"synthaug {__version__}", *map(versioned, VERSIONS)])])


def busy() -> float:
    """The machine's load, over a minute; 0 where nobody counts it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def write(section: str, results: Path) -> None:
    """Put the section between the markers, or at the end of a file without them."""
    text = results.read_text(encoding="utf-8") if results.exists() else ""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## Speed beside named peers\n\n{BEGIN}\n{END}\n".lstrip()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    results.write_text(f"{before}{BEGIN}\n\n{section}\n\n{END}{after}", encoding="utf-8")


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """The ratios as bars with their ranges, on a logarithmic axis."""
    from matplotlib.figure import Figure

    found = [one for outcome in outcomes for one in outcome.comparisons][::-1]
    figure = Figure(figsize=(7, 0.8 + 0.4 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.barh([f"{one.what} / {one.peer}" for one in found], [one.ratio for one in found], log=True)
    for place, one in enumerate(found):
        low, high = one.between
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        axes.text(max(one.ratio, high), place, f" {one.ratio:.2g}", va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xlabel="speed of synthaug over that of the peer")
    axes.margins(x=0.15)
    figure.savefig(path, dpi=120)


def merged(kept: Mapping[str, Outcome], new: Sequence[Outcome], order: Sequence[str]) -> list[Outcome]:
    """The new rows in the place of those kept, in this order; rows of other names are dropped."""
    held = {**kept, **{outcome.row: outcome for outcome in new}}
    return [held[name] for name in order if name in held]
