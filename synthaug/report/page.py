"""One self-contained page from a results file: no script, no font, no address of anything outside it.

Conventions: every text is escaped (jinja2 autoescape); the only markup passed through is the charts', which matplotlib
escapes. Pictures come from `FOLDER/pictures/*.png` and are written into the page. Equal results give an equal page.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from synthaug.evaluation.pictures import FOLDER
from synthaug.evaluation.results import Metric, Results
from synthaug.report.figures import interval_chart
from synthaug.report.sections import SUBGROUPS, Section, interval, number, sections
from synthaug.report.verdict import Verdict, verdicts
from synthaug.shards import atomic_write

PAGE = "report.html"
PICTURES = {
    "synthetic.png": ("Synthetic films", "At equal steps through the films, with what their labels show."),
    "real.png": ("Real films", "At equal steps through the real films."),
    "nearest.png": (
        "Nearest to training films",
        "The synthetic films most correlated with a training film, the most correlated first; each is followed by that "
        "film where real films may be shown.",
    ),
}
COLUMNS = {
    "figure": "text",
    "finding": "text",
    "subgroup": "text",
    "arm": "text",
    "extractor": "text",
    "value": "number",
    "95 % interval": "number",
    "floor": "number",
    "n": "number",
    "note": "why",
}
REFERENCE = {"Labels": 0.5, "Sharpness": 1.0, SUBGROUPS: 0.0}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: its text and its kind."""

    text: str
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG inside the page."""

    title: str
    about: str
    data: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page as the template takes it."""

    title: str
    about: str
    charts: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def write_page(folder: str | Path, results: Results | None = None) -> Path:
    """Write `report.html` beside `results.json`, which is read where `results` is not given.

    Raises `DataError` where there is no results file.
    """
    folder = Path(folder)
    held = Results.read(folder) if results is None else results
    path = folder / PAGE
    atomic_write(path, page(held, list(_pictures(folder))).encode())
    return path


def page(results: Results, pictures: Sequence[Picture] = ()) -> str:
    """The page of one results file."""
    what = {"evaluate": "Synthetic films, evaluated", "benchmark": "Do synthetic films help?"}[results.kind]
    return render(
        title=what,
        verdicts=verdicts(results),
        parts=[part(one) for one in sections(results.metrics)],
        pictures=pictures,
        settings=[(name, _text(value)) for name, value in _flat(results.settings) if name != "command"],
        command=results.settings.get("command"),
        protocol=results.protocol,
    )


def render(
    title: str,
    verdicts: Sequence[Verdict],
    parts: Sequence[Part],
    settings: Sequence[tuple[str, str]],
    protocol: str,
    pictures: Sequence[Picture] = (),
    leading: Sequence[str] = (),
    command: str | None = None,
) -> str:
    """The template, filled; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=title,
        verdicts=verdicts,
        parts=parts,
        pictures=pictures,
        settings=settings,
        protocol=protocol,
        command=command,
        leading=leading,
    )


def part(section: Section) -> Part:
    """A section with its charts and its table; columns that nothing fills are left out."""
    rows = [_row(metric) for metric in section.metrics]
    kept = [name for i, name in enumerate(COLUMNS) if any(row[i] for row in rows)]
    places = [list(COLUMNS).index(name) for name in kept]
    cells = tuple(tuple(Cell(row[i], list(COLUMNS.values())[i]) for i in places) for row in rows)
    return Part(section.title, section.about, tuple(_charts(section)), tuple(kept), cells)


def _row(metric: Metric) -> tuple[str, ...]:
    return (
        metric.name,
        metric.finding or "",
        metric.subgroup or "",
        metric.arm or "",
        " ".join(part for part in (metric.extractor, metric.resize and f"({metric.resize})") if part),
        number(metric.value),
        interval(metric),
        "" if metric.floor is None else number(metric.floor),
        "" if metric.n is None else str(metric.n),
        (metric.reason if metric.value is None else metric.note) or "",
    )


def _charts(section: Section) -> Iterator[str]:
    """A chart for each scale: figures that are shares together, the others by name; one figure alone needs none."""
    shares = [m for m in section.metrics if m.value is not None and _is_share(m)]
    groups: dict[str, list[Metric]] = {"": shares} if len(shares) > 1 else {}
    for metric in section.metrics:
        if metric.value is not None and metric not in shares and not metric.name.startswith("films needed"):
            groups.setdefault(metric.name.partition(" ")[0], []).append(metric)
    for metrics in groups.values():
        if len(metrics) > 1:
            yield Markup(interval_chart(metrics, REFERENCE.get(section.title)))


def _is_share(metric: Metric) -> bool:
    words = ("label", "shuffled", "empty prompt", "precision", "recall", "coverage", "under-diagnosis")
    return metric.name.startswith(words)


def _pictures(folder: Path) -> Iterator[Picture]:
    for name, (title, about) in PICTURES.items():
        path = folder / FOLDER / name
        if path.is_file():
            yield Picture(title, about, base64.b64encode(path.read_bytes()).decode())


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        elif value not in (None, [], ""):
            yield f"{prefix}{name}".replace("_", " "), value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(_text(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return value if isinstance(value, str) else json.dumps(value)
