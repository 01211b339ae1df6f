"""Runs beside each other, where they were measured alike.

Conventions: a metric's `protocol` covers the network, the resize, the reference films and their number; values of different
protocols are never put side by side. Files of another kind or another protocol as a whole are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from synthaug.errors import DataError
from synthaug.evaluation.results import Metric, Results
from synthaug.report.figures import curve
from synthaug.report.page import PAGE, Cell, Part, render
from synthaug.report.sections import interval, number, sections
from synthaug.shards import atomic_write

REFUSED = "other protocol: not compared"


@dataclass(frozen=True, slots=True)
class Run:
    """A results file under the name of its folder."""

    name: str
    results: Results


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Runs that may be compared, under the shortest names that tell them apart.

    Raises `DataError` where one has no results, or they differ in kind or protocol.
    """
    paths = [Path(folder) for folder in folders]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.resolve().name}" for path in paths]
    runs = [Run(name, Results.read(path)) for name, path in zip(names, paths, strict=True)]
    first = runs[0]
    for other in runs[1:]:
        for what in ("kind", "protocol"):
            one, two = getattr(first.results, what), getattr(other.results, what)
            if one != two:
                raise DataError(
                    f"{other.name}: {what} {two!r}, {first.name}: {one!r}; only runs of one {what} are compared. Repeat one "
                    "with the detectors, extractors and --split of the other"
                )
    return runs


def compare(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page that compares runs to `out/report.html`. Raises `DataError` as `read_runs` does."""
    runs = read_runs(folders)
    parts = [_part(section.title, section.about, section.metrics, runs) for section in sections(_keys(runs))]
    leading = [Markup(chart) for chart in (fidelity_coverage(runs),) if chart]
    settings = [(run.name, str(run.results.settings.get("command") or "")) for run in runs]
    text = render("Runs compared", [], parts, settings, runs[0].results.protocol, leading=leading)
    path = Path(out) / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text.encode())
    return path


def cells(metrics: Sequence[Metric | None]) -> list[str]:
    """One metric of several runs as text, each with its interval; values of another protocol than the first's are refused."""
    known = [m for m in metrics if m is not None and m.value is not None]
    protocol = known[0].protocol if known else None
    out = []
    for metric in metrics:
        if metric is None:
            out.append("not measured")
        elif metric.value is None:
            out.append(metric.reason or "")
        elif metric.protocol != protocol:
            out.append(REFUSED)
        else:
            between = interval(metric)
            out.append(number(metric.value) + (f" ({between})" if between else ""))
    return out


def fidelity_coverage(runs: Sequence[Run]) -> str:
    """Label accuracy and coverage over guidance, where the runs differ in it: a caricature is easy to recognise."""
    points = []
    for run in runs:
        scales = run.results.settings.get("guidance_scale") or []
        accuracy = _values(run, "label accuracy")
        covered = _values(run, "coverage")
        if len(scales) == 1 and accuracy and covered:
            points.append(
                (float(scales[0]), accuracy[0].value or 0.0, covered[0].value or 0.0, covered[0].protocol)
            )
    if len({p[0] for p in points}) < 2 or len({p[3] for p in points}) > 1:
        return ""
    return curve([p[:3] for p in points], "guidance scale", ("label accuracy", "coverage"))


def _values(run: Run, name: str) -> list[Metric]:
    return [
        m
        for m in run.results.metrics
        if m.name == name and m.arm == "synthetic" and m.subgroup is None and m.value is not None
    ]


def _keys(runs: Sequence[Run]) -> list[Metric]:
    """Every metric once, in the order of the first run that has it."""
    found: dict[tuple[str | None, ...], Metric] = {}
    for run in runs:
        for metric in run.results.metrics:
            found.setdefault(metric.key, metric)
    return list(found.values())


def _part(title: str, about: str, metrics: Sequence[Metric], runs: Sequence[Run]) -> Part:
    by_run = [{m.key: m for m in run.results.metrics} for run in runs]
    rows = []
    for metric in metrics:
        told = [
            metric.name,
            metric.finding or "",
            metric.subgroup or "",
            metric.arm or "",
            metric.extractor or "",
        ]
        values = cells([held.get(metric.key) for held in by_run])
        rows.append(
            tuple(
                [*(Cell(t) for t in told), *(Cell(v, "number" if v[:1].isdigit() else "why") for v in values)]
            )
        )
    columns = ("figure", "finding", "subgroup", "arm", "extractor", *(run.name for run in runs))
    return Part(title, about, (), columns, tuple(rows))
