"""Charts as inline SVG that take the page's own colours, light or dark.

Conventions: ink is `currentColor`; equal input gives equal bytes (no date, fixed ids); user's text is escaped by matplotlib
and never read as mathematics.
"""

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from synthaug.evaluation.results import Metric
from synthaug.report.sections import row_names

INK = "#010203"  # stands for the page's text colour until the chart is written
BLUE, ORANGE = "#3b7dd8", "#d9822b"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "synthaug",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def interval_chart(metrics: Sequence[Metric], reference: float | None = None) -> str:
    """One line a figure: its value, its interval, and its floor as an upright stroke; "" where nothing has a value."""
    shown = [m for m in metrics if m.value is not None]
    if not shown:
        return ""
    with axes_of(7.0, 0.55 + 0.24 * len(shown)) as (figure, panels):
        (axes,) = panels.flat
        for y, metric in enumerate(shown):
            if metric.low is not None and metric.high is not None:
                axes.plot([metric.low, metric.high], [y, y], color=BLUE, linewidth=2, alpha=0.6)
            axes.plot([metric.value], [y], "o", color=BLUE, markersize=4.5)
            if metric.floor is not None:
                axes.plot([metric.floor, metric.floor], [y - 0.32, y + 0.32], color=ORANGE, linewidth=2)
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(shown)), [_short(name) for name in row_names(shown)])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
        return svg(figure, f"{len(shown)} figures with their intervals")


def curve(points: Sequence[tuple[float, float, float]], x_label: str, names: tuple[str, str]) -> str:
    """Two values over one setting, guidance say: points (x, first, second)."""
    ordered = sorted(points)
    with axes_of(6.0, 3.0) as (figure, panels):
        (axes,) = panels.flat
        for column, (name, colour) in enumerate(zip(names, (BLUE, ORANGE), strict=True), 1):
            axes.plot([p[0] for p in ordered], [p[column] for p in ordered], "o-", color=colour, label=name)
        axes.set_xlabel(x_label)
        axes.set_ylim(0, 1.02)
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        axes.legend(frameon=False)
        return svg(figure, f"{names[0]} and {names[1]} over {x_label}")


@contextmanager
def axes_of(
    width: float, height: float, rows: int = 1, columns: int = 1, shared: bool = False
) -> Iterator[tuple[Any, Any]]:
    """An empty figure in inches and its axes, an array (rows, columns); the style holds for all that is put on them.

    Arguments: `shared` gives all axes the same limits.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)


def svg(figure: Any, description: str) -> str:
    """The figure as inline SVG whose ink is the page's text colour."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


def _short(text: str, most: int = 58) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def reliability(axes: Any, bins: Sequence[Mapping[str, Any]], colour: str, size: float) -> None:
    """A calibration diagram's points, share that shows the finding over mean probability, with their intervals."""
    for bin_ in bins:
        axes.plot(
            [bin_["score"]] * 2, [bin_["low"], bin_["high"]], color=colour, linewidth=0.4 * size, alpha=0.6
        )
    axes.plot(
        [bin_["score"] for bin_ in bins],
        [bin_["share"] for bin_ in bins],
        "o",
        color=colour,
        markersize=size,
    )
