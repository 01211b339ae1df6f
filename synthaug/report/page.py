"""One self-contained page from a results file: no script, no font, no address of anything outside it.

Conventions: every text is escaped (jinja2 autoescape); the only markup passed through is the charts', which matplotlib
escapes. Pictures come from `FOLDER/pictures/*.png` and are written into the page. Equal results give an equal page.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from synthaug.benchmark.conclude import words
from synthaug.evaluation.pictures import FOLDER
from synthaug.evaluation.results import Metric, Results
from synthaug.report.curves import (
    ARM,
    fidelity_over_guidance,
    learning_curves,
    rank_curves,
    reliability_charts,
)
from synthaug.report.figures import interval_chart
from synthaug.report.sections import DIFFERENCE, SUBGROUPS, Section, interval, number, sections
from synthaug.report.study_curves import score_charts
from synthaug.report.verdict import Verdict, verdicts
from synthaug.shards import atomic_write

PAGE = "report.html"
PICTURES = {
    "synthetic.png": ("Synthetic films", "A row a label, at equal steps through the films that carry it."),
    "real.png": (
        "Real films",
        "The same labels row by row, at equal steps through the real films that carry them.",
    ),
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
SHARED = ("figure", "finding", "extractor", "n")  # columns that stand in one line where all rows agree
REFERENCE = {
    "Labels": 0.5,
    "Sharpness": 1.0,
    SUBGROUPS: 0.0,
    "The arm chosen on validation": 0.0,
    DIFFERENCE: 0.0,
    "Each arm": 0.5,
}


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
    """A part of the page as the template takes it.

    `caption` explains the charts, no rows mean no table, `shared` is what holds for every row; `folded` parts open by a click.
    """

    title: str
    about: str
    charts: tuple[str, ...]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    caption: str = "Dot and line: value and 95 % interval. Orange stroke: floor."
    shared: str = ""
    folded: bool = False


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
        parts=parts(results),
        pictures=pictures,
        settings=[(name, _text(value)) for name, value in _flat(_told(results.settings))],
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


def parts(results: Results) -> list[Part]:
    """Every part of a page, in its order: curves of the whole first, then each section, gates last."""
    found: list[Part] = []
    learnt = learning_curves(results.settings.get("curve") or [])
    if learnt:
        about = "Each arm beside real films alone, over the number of real films. Dots are means over draws."
        found.append(_charted("Learning curves", about, learnt, "Bands: 95 %, patients crossed with draws."))
    guided = fidelity_over_guidance(results.metrics)
    if guided:
        about = "A caricature is easy to recognise: labels that grow clearer while coverage falls are paid for in resemblance."
        found.append(_charted("Fidelity beside coverage", about, guided, "Strokes: 95 % intervals."))
    scored = results.settings.get("curves") or []
    if results.kind == "benchmark":
        found += _study_scores(scored)
        scored = []
    for section in sections(results.metrics):
        found.append(part(section))
        if section.title == "Labels" and scored:
            found += _scored(scored)
    if gates := results.settings.get("gates"):
        found.append(_gates(gates))
    return found


def _charted(title: str, about: str, charts: Sequence[str], caption: str) -> Part:
    return Part(title, about, tuple(Markup(chart) for chart in charts), caption=caption)


def _study_scores(curves: Sequence[dict[str, Any]]) -> Iterator[Part]:
    """Ranking and calibration of a study, a part a depth and size; all but the last of a depth are folded."""
    groups = list(dict.fromkeys((one["depth"], one["size"]) for one in curves))
    about = (
        "Ink: real films alone; blue: the arm. ROC and precision-recall are means over draws. Probabilities were calibrated on "
        "validation in every arm alike: does one of .3 mean that three of ten judged films show the finding?"
    )
    caption = (
        "Bands: pointwise 95 %, patients crossed with draws. Strokes: 95 %, patients as clusters, draws together. "
        "Dotted: chance, at the films' own frequency; perfect calibration."
    )
    for place, (depth, size) in enumerate(groups):
        charts = score_charts([one for one in curves if (one["depth"], one["size"]) == (depth, size)])
        last = place + 1 == len(groups) or groups[place + 1][0] != depth
        if charts:
            held = _charted(f"Ranking and calibration, {depth}, {words(size)}", about, charts, caption)
            yield replace(held, folded=not last)


def _scored(curves: Sequence[dict[str, Any]]) -> list[Part]:
    ranking = "How well the detectors' scores part films with the finding from films without any, at every threshold."
    calibration = (
        "Does a probability of .8 mean that eight of ten films show it? Of the films at hand: where half of "
        "them show the finding, probabilities of a detector that learnt a rarer one lie low."
    )
    return [
        _charted(
            "Ranking",
            ranking,
            rank_curves(curves),
            "Dashed: real films. Dotted: chance, at the films' own frequency.",
        ),
        _charted("Calibration", calibration, reliability_charts(curves), "Strokes: Wilson's 95 % intervals."),
    ]


def _gates(gates: dict[str, Any]) -> Part:
    """What quality gates took out, folder by folder."""
    rows = []
    for folder, rates in gates.items():
        rejected = rates.get("rejected") or {}
        taken = ", ".join(f"{name} {count}" for name, count in rejected.items()) or "none"
        share = rates.get("acceptance")
        told = (str(rates.get("candidates", "–")), str(rates.get("accepted", "–")), number(share))
        rows.append((Cell(folder), *(Cell(t, "number") for t in told), Cell(taken, "why")))
    about = "Films that a gate discarded were drawn again. Figures of a gated set are of films that passed, not of the generator."
    columns = ("folder", "candidates", "accepted", "share accepted", "rejected by")
    return Part("Quality gates", about, (), columns, tuple(rows))


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that have no better place on the page."""
    return {
        name: value
        for name, value in settings.items()
        if name not in ("command", "curve", "curves", "gates", "certificates")
    }


def part(section: Section) -> Part:
    """A section with its charts and its table; columns that nothing fills are left out, what all rows share stands once."""
    rows = [_row(metric) for metric in section.metrics]
    kept = [name for i, name in enumerate(COLUMNS) if any(row[i] for row in rows)]
    places = {name: list(COLUMNS).index(name) for name in kept}
    common = [n for n in kept if n in SHARED and len(rows) > 1 and len({row[places[n]] for row in rows}) == 1]
    kept = [name for name in kept if name not in common]
    cells = tuple(tuple(Cell(row[places[n]], COLUMNS[n]) for n in kept) for row in rows)
    told = "; ".join(f"{name} {rows[0][places[name]]}" for name in common)
    return Part(section.title, section.about, tuple(_charts(section)), tuple(kept), cells, shared=told)


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
    # Films at other guidance scales have a chart of their own.
    own = [m for m in section.metrics if not ARM.match(m.arm or "")]
    shares = [m for m in own if m.value is not None and _is_share(m)]
    groups: dict[str, list[Metric]] = {"": shares} if len(shares) > 1 else {}
    for metric in own:
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
