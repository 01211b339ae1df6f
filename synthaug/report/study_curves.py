"""Charts of a study's scores: ROC, precision-recall and reliability of every arm beside real films alone.

Conventions: those of `figures`; a panel an arm, ink is `real`, blue the arm; "" where there is nothing to draw.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from synthaug.report.figures import BLUE, INK, axes_of, reliability, svg

ACROSS = 4
Curves = Mapping[str, Any]
NAMES = {
    "roc": ("ROC", "1 - specificity", "sensitivity"),
    "precision_recall": ("Precision-recall", "recall", "precision"),
    "reliability": ("Calibration", "mean probability of a bin", "share that shows the finding"),
}


def score_charts(curves: Sequence[Curves]) -> list[str]:
    """One chart each of ROC, precision-recall and reliability, from `settings.curves` of one depth and size."""
    real = next((one for one in curves if one["arm"] == "real"), None)
    if real is None:
        return []
    arms = [one for one in curves if one["arm"] != "real"] or [real]
    return [_panels(kind, real, arms) for kind in NAMES]


def _panels(kind: str, real: Curves, arms: Sequence[Curves]) -> str:
    name, x, y = NAMES[kind]
    across = min(ACROSS, len(arms))
    rows = -(-len(arms) // across)
    draw: Callable[[Any, Curves, str], None] = _bins if kind == "reliability" else _line
    width = 7.6 if across > 2 else 3.8 * across
    with axes_of(width, 0.6 + rows * width / across, rows, across, shared=True) as (figure, panels):
        flat = list(panels.flat)
        for place, (axes, arm) in enumerate(zip(flat, arms, strict=False)):
            axes.tick_params(labelbottom=place + across >= len(arms))  # the lowest panel of each column
            if kind == "precision_recall":
                axes.axhline(
                    real["present"] / (real["present"] + real["absent"]),
                    color=INK,
                    linewidth=0.7,
                    linestyle=":",
                )
            else:
                axes.plot([0, 1], [0, 1], color=INK, linewidth=0.7, linestyle=":")
            draw(axes, {"kind": kind, **real}, INK)
            if arm is not real:
                draw(axes, {"kind": kind, **arm}, BLUE)
            axes.set_title(arm["arm"], fontsize=8, color=INK if arm is real else BLUE)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.set_aspect("equal")
            axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        for axes in flat[len(arms) :]:
            axes.set_visible(False)
        figure.supxlabel(x, fontsize=9)
        figure.supylabel(y, fontsize=9)
        figure.suptitle(name, fontsize=9.5)
        return svg(figure, f"{name} of each arm beside real films alone")


def _line(axes: Any, one: Curves, colour: str) -> None:
    x, mean, low, high = zip(*one[one["kind"]], strict=True)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=colour, linewidth=1.3)


def _bins(axes: Any, one: Curves, colour: str) -> None:
    reliability(axes, one["reliability"], colour, size=2.6)
