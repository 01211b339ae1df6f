"""Charts of whole curves: learning curves with bands, ROC and precision-recall, reliability, fidelity over guidance.

Conventions: those of `figures`; "" where there is nothing to draw. A colour is one arm or detector throughout a chart.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from synthaug.evaluation.results import Metric
from synthaug.findings import title
from synthaug.report.figures import BLUE, INK, ORANGE, axes_of, reliability, svg

COLOURS = (BLUE, ORANGE, "#2a9d6f", "#b05cc6", "#c94f4f", "#8a8f2a")
ARM = re.compile(r"^(.*?)guidance ([\d.]+)$")
ACROSS = 3  # panels of learning curves in a row


def learning_curves(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """AUROC over films with the finding that the real arm has, a panel an arm beside `real`; bands are 95 % intervals.

    Arguments: `points` of `settings.curve` of a benchmark. One chart a depth.
    """
    return [chart for depth in dict.fromkeys(p["depth"] for p in points) if (chart := _depth(points, depth))]


def _depth(points: Sequence[Mapping[str, Any]], depth: str) -> str:
    mine = [p for p in points if p["depth"] == depth and p["low"] is not None]
    real = {p["size"]: p for p in mine if p["arm"] == "real"}
    arms = [arm for arm in dict.fromkeys(p["arm"] for p in mine) if arm != "real"] or ["real"]
    if not real:
        return ""
    rows = -(-len(arms) // ACROSS)
    low, high = min(p["low"] for p in mine), max(p["high"] for p in mine)
    with axes_of(7.6, 0.5 + 1.9 * rows, rows, min(ACROSS, len(arms)), shared=True) as (
        figure,
        panels,
    ):
        flat = list(panels.flat)
        for place, (axes, arm) in enumerate(zip(flat, arms, strict=False)):
            axes.tick_params(
                labelbottom=place + min(ACROSS, len(arms)) >= len(arms)
            )  # the lowest of each column
            for name, colour in (("real", INK), (arm, BLUE)):
                line = sorted(
                    (real[p["size"]]["present"], p) for p in mine if p["arm"] == name and p["size"] in real
                )
                x = [place for place, _ in line]
                low_of, high_of = [p["low"] for _, p in line], [p["high"] for _, p in line]
                axes.fill_between(x, low_of, high_of, color=colour, alpha=0.16, linewidth=0)
                if len(line) == 1:  # no band without a second size
                    axes.plot(x * 2, [*low_of, *high_of], color=colour, alpha=0.4, linewidth=4)
                axes.plot(x, [p["auroc"] for _, p in line], "o-", color=colour, markersize=3, linewidth=1.4)
            axes.set_title(arm, fontsize=9, color=BLUE if arm != "real" else INK)
            axes.set_xscale("log")
            ticks = sorted({p["present"] for p in real.values()})
            axes.set_xticks(ticks, [str(t) for t in ticks])
            axes.minorticks_off()
            axes.set_ylim(max(0, low - 0.02), min(1, high + 0.02))
            axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        for axes in flat[len(arms) :]:
            axes.set_visible(False)
        figure.supxlabel(f"real films with the finding ({depth}); ink: real alone, blue: the arm", fontsize=9)
        figure.supylabel("AUROC", fontsize=9)
        return svg(figure, f"Learning curves, {depth}: AUROC of each arm beside real films alone")


def rank_curves(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """ROC and precision-recall side by side, one chart a finding; solid lines are synthetic films, dashed ones real."""
    out = []
    for finding in dict.fromkeys(c["finding"] for c in curves):
        mine = [c for c in curves if c["finding"] == finding]
        colours = _colours(mine)
        with axes_of(7.2, 3.6, 1, 2) as (figure, panels):
            left, right = panels.flat
            left.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
            for one in mine:
                style: dict[str, Any] = {
                    "color": colours[one["extractor"]],
                    "linestyle": "--" if one["arm"] == "real" else "-",
                    "linewidth": 1.5,
                }
                left.plot(*zip(*one["roc"], strict=True), label=f"{one['extractor']}, {one['arm']}", **style)
                right.plot(*zip(*one["precision_recall"], strict=True), **style)
                frequency = one["present"] / (one["present"] + one["absent"])
                right.axhline(frequency, color=style["color"], linewidth=0.7, linestyle=":")
            for axes, names in ((left, ("1 - specificity", "sensitivity")), (right, ("recall", "precision"))):
                axes.set(xlabel=names[0], ylabel=names[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
                axes.grid(color=INK, alpha=0.12, linewidth=0.6)
            figure.suptitle(f"{title(finding).capitalize()}: ROC and precision-recall", fontsize=10)
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
            out.append(svg(figure, f"ROC and precision-recall of {title(finding)}"))
    return out


def reliability_charts(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """Share of present films over the mean probability of a bin, with Wilson intervals and the films of each bin."""
    out = []
    for finding in dict.fromkeys(c["finding"] for c in curves):
        mine = [c for c in curves if c["finding"] == finding]
        across = min(2, len(mine))
        rows = -(-len(mine) // across)
        with axes_of(3.7 * across, 2.7 * rows, rows, across, shared=True) as (figure, panels):
            flat = list(panels.flat)
            for axes, one in zip(flat, mine, strict=False):
                axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
                reliability(axes, one["reliability"], BLUE, size=4)
                counts = sorted({b["n"] for b in one["reliability"]})
                told = "-".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
                axes.set_title(
                    f"{one['extractor']}, {one['arm']}: {len(one['reliability'])} bins of {told} films",
                    fontsize=8,
                )
                axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
                axes.grid(color=INK, alpha=0.12, linewidth=0.6)
            for axes in flat[len(mine) :]:
                axes.set_visible(False)
            figure.supxlabel(f"{title(finding)}: mean probability of a bin", fontsize=9)
            figure.supylabel("share that shows it", fontsize=9)
            out.append(svg(figure, f"Reliability of the probabilities of {title(finding)}"))
    return out


def fidelity_over_guidance(metrics: Sequence[Metric]) -> list[str]:
    """Label accuracy of each detector and coverage over the guidance scale, one chart a finding."""
    held: dict[str, dict[float, list[Metric]]] = {}
    for metric in metrics:
        found = ARM.match(metric.arm or "")
        if found and metric.value is not None and metric.name in ("label accuracy", "coverage"):
            held.setdefault(found[1], {}).setdefault(float(found[2]), []).append(metric)
    if not held:
        return []
    scales = max(held.values(), key=len)
    flat = [(scale, metric) for scale, several in sorted(scales.items()) for metric in several]
    findings = dict.fromkeys(m.finding for _, m in flat if m.name == "label accuracy")
    return [_guidance(flat, finding) for finding in findings] if len(scales) > 1 else []


def _guidance(flat: Sequence[tuple[float, Metric]], finding: str | None) -> str:
    lines: dict[str, list[tuple[float, Metric]]] = {}
    for scale, metric in flat:
        if metric.name == "coverage" and metric.finding is None:
            lines.setdefault(f"coverage, {metric.extractor}", []).append((scale, metric))
        elif metric.name == "label accuracy" and metric.finding == finding:
            lines.setdefault(f"label accuracy, {metric.extractor}", []).append((scale, metric))
    with axes_of(6.4, 3.4) as (figure, panels):
        (axes,) = panels.flat
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
        for (name, points), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
            x = [scale for scale, _ in points]
            style = "s--" if name.startswith("coverage") else "o-"
            axes.plot(x, [m.value for _, m in points], style, color=colour, label=name, markersize=4)
            for scale, metric in points:
                if metric.low is not None and metric.high is not None:
                    axes.plot([scale] * 2, [metric.low, metric.high], color=colour, linewidth=1.5, alpha=0.5)
            floors = [m.floor for _, m in points if m.floor is not None and m.name == "coverage"]
            if floors:
                axes.axhline(
                    floors[0], color=colour, linewidth=0.8, linestyle="-.", label="coverage of real films"
                )
        axes.set(xlabel="guidance scale (1 is off)", ylim=(-0.02, 1.02))
        axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        named = title(finding) if finding else "all films"
        axes.set_title(f"{named.capitalize()}: fidelity beside coverage", fontsize=10)
        return svg(figure, f"Label accuracy and coverage of {named} over the guidance scale")


def _colours(curves: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names = list(dict.fromkeys(c["extractor"] for c in curves))
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
