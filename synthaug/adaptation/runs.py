"""What a run leaves of itself, and runs side by side.

    OUT/training/log.jsonl    one line a step: part, step, figures, learning_rate
    OUT/training/run.json     route, base, parameters, films/s, memory, device, precision, last figures
    OUT/evaluation/           results.json of `synthaug evaluate --out OUT/evaluation`, if somebody measured its films

A run that was killed repeats some steps; the last line of a step counts.
"""

import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from synthaug.adaptation.route import Progress
from synthaug.errors import DataError, NotInstalledError
from synthaug.shards import atomic_write
from synthaug.tables import columns

LOG, FACTS = "log.jsonl", "run.json"
MEASURED = ("label accuracy", "label AUROC", "KID")  # of the results beside a run
TAIL = 20  # steps that a loss is averaged over
COLUMNS = (
    "run",
    "route",
    "base",
    "steps",
    "loss first",
    "loss last",
    "validation first",
    "validation last",
    "trained",
    "films/s",
    "memory GB",
    *MEASURED,
)


class RunLog:
    """Writes both files; `seconds` between steps give the rate, saving and samples left out by the median."""

    def __init__(self, state: Path, facts: Mapping[str, Any]):
        self.state, self.facts = state, dict(facts)
        state.mkdir(parents=True, exist_ok=True)
        self.times: dict[str, list[float]] = {}
        self.last: tuple[str, float] | None = None

    def add(self, progress: Progress, batch_size: int) -> None:
        """One step."""
        now, record = time.monotonic(), progress.record
        if self.last is not None and self.last[0] == progress.part:
            self.times.setdefault(progress.part, []).append(now - self.last[1])
        self.last = progress.part, now
        line = {
            "part": progress.part,
            "step": record.step,
            "learning_rate": record.learning_rate,
            **record.figures,
        }
        with open(self.state / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.facts |= {
            "part": progress.part,
            "step": record.step,
            "steps": progress.steps,
            "figures": dict(record.figures),
        }
        if times := self.times.get(progress.part):
            self.facts["films_per_second"] = batch_size / statistics.median(times[-200:])

    def close(self) -> None:
        """Write run.json; that of a finished run, of which nothing was left to do, stays."""
        if self.last is None and (self.state / FACTS).exists():
            return
        self.facts["peak_memory_bytes"] = peak_memory()
        atomic_write(self.state / FACTS, (json.dumps(self.facts, indent=1, sort_keys=True) + "\n").encode())


def peak_memory() -> int:
    """Bytes at the most: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        # Linux tells it itself; there, rusage also counts the parent that a process was started by.
        if found := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return 1024 * int(found[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def read_log(run: Path) -> list[dict[str, Any]]:
    """The steps of a run in order, each once.

    Raises:
        DataError: there is no such log.
    """
    path = run / "training" / LOG
    if not path.exists():
        raise DataError(f"--compare {run}: no {path}; expected folders that `synthaug adapt --out` wrote")
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the half line of a kill
        lines[line["part"], line["step"]] = line
    return list(lines.values())


def row(run: Path) -> dict[str, Any]:
    """The figures of one run; None where the run did not record one. Losses are means over 20 steps.

    Raises:
        DataError: no log, or results that cannot be read.
    """
    log, path = read_log(run), run / "training" / FACTS
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = log[-1]["part"] if log else ""
    own = [line for line in log if line["part"] == part]
    key = next((k for line in own for k in line if k.endswith("/loss")), "")
    losses = [line[key] for line in own if key in line]
    checks = [line["unet/validation"] for line in own if "unet/validation" in line]
    return {
        "run": run.name,
        "route": facts.get("route"),
        "base": facts.get("base"),
        "steps": own[-1]["step"] if own else 0,
        "loss first": statistics.fmean(losses[:TAIL]) if losses else None,
        "loss last": statistics.fmean(losses[-TAIL:]) if losses else None,
        "validation first": checks[0] if checks else None,
        "validation last": checks[-1] if checks else None,
        "trained": facts.get("parameters_trained"),
        "films/s": facts.get("films_per_second"),
        "memory GB": facts["peak_memory_bytes"] / 1e9 if "peak_memory_bytes" in facts else None,
        **_measured(run / "evaluation" / "results.json"),
    }


def _measured(path: Path) -> dict[str, str | None]:
    """Label fidelity and KID with their intervals, as evaluate found them of all films together."""
    found: dict[str, str | None] = dict.fromkeys(MEASURED)
    if not path.exists():
        return found
    try:
        for metric in json.loads(path.read_text(encoding="utf-8"))["metrics"]:
            name, value = metric["name"], metric["value"]
            own = metric["arm"] != "real" and metric["subgroup"] is None
            if own and value is not None and name in found and found[name] is None:
                found[name] = f"{value:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"--compare: {path} is not what `synthaug evaluate` writes ({error})") from error
    return found


def compare(runs: Sequence[Path]) -> str:
    """The runs side by side, one line each."""
    lines = [[_cell(value) for value in row(run).values()] for run in runs]
    return columns(lines, list(COLUMNS))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw(runs: Sequence[Path], out: Path) -> None:
    """One figure: the loss of each run over its steps, a mean over 20.

    Raises:
        NotInstalledError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NotInstalledError("--out with --compare: run `pip install matplotlib`") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        log = read_log(run)
        own = [line for line in log if line["part"] == log[-1]["part"]]
        key = next(k for k in own[-1] if k.endswith("/loss"))
        points = [(line["step"], line[key]) for line in own if key in line]
        means = [
            (step, statistics.fmean(v for _, v in points[max(0, i - TAIL + 1) : i + 1]))
            for i, (step, _) in enumerate(points)
        ]
        axes.plot(*zip(*means, strict=True), label=run.name)
    axes.set(xlabel="step", ylabel=f"training loss, mean over {TAIL} steps", yscale="log")
    axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
