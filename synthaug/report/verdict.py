"""The verdict: what the figures say, one sentence each, most important first; what they cannot say is said too.

Conventions: a verdict is "good", "bad" or "open"; a difference counts only where its interval leaves out what it is compared
with. Nothing here is computed anew: every number is one of the results.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from synthaug.benchmark.conclude import IMPLAUSIBLE, words
from synthaug.evaluation.label_fidelity import BOUND
from synthaug.evaluation.privacy import MEMBERSHIP, NAMES
from synthaug.evaluation.results import Metric, Results
from synthaug.evaluation.subgroups import GAP
from synthaug.findings import title
from synthaug.report.sections import interval, number

Level = Literal["good", "bad", "open"]
CLEAR = 4  # times the rate of innocent films: an interval that reaches farther rules too little out to be good news


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence and what it means for the films."""

    level: Level
    text: str


def verdicts(results: Results) -> list[Verdict]:
    """Every verdict of a results file."""
    if results.kind == "benchmark":
        return list(_utility(results))
    out = [
        *_certificates(results),
        *_labels(results),
        *_resemblance(results),
        *_privacy(results),
        *_gaps(results),
    ]
    out.append(
        Verdict("open", "Whether the films help a detector is not measured here; `synthaug benchmark` does.")
    )
    return out


def _words(finding: str | None) -> str:
    return "all films" if finding is None else title(finding)


def _certificates(results: Results) -> Iterator[Verdict]:
    for one in results.settings.get("certificates") or ():
        who = f"{_words(one['finding']).capitalize()}, labels"
        if one["certified"]:
            gated = " as a gated set" if results.settings.get("gated") else ""
            yield Verdict(
                "good",
                f"{who}: certified{gated}. Every detector finds {BOUND:g} or more; the controls are at chance.",
            )
        else:
            yield Verdict("open", f"{who}: not certified: {'; '.join(one['against'])}.")


def _labels(results: Results) -> Iterator[Verdict]:
    for metric in results.metrics:
        if metric.name != "label accuracy" or metric.arm != "synthetic" or metric.subgroup is not None:
            continue
        who = f"{_words(metric.finding).capitalize()}, labels judged by {metric.extractor or 'the detector'}"
        if metric.value is None or metric.low is None or metric.high is None:
            yield Verdict("open", f"{who}: {metric.reason}.")
            continue
        ceiling = _beside(results, metric, "label accuracy", "real")
        beside = f"on real films {_told(ceiling)}" if ceiling else "its ceiling is unknown"
        gated = ", after a quality gate" if results.settings.get("gated") else ""
        level: Level = "good" if metric.low > BOUND else "bad" if metric.low <= 0.5 else "open"
        meaning = {
            "good": f"above {BOUND:g}",
            "bad": "not shown to be above chance",
            "open": f"above chance, not shown to exceed {BOUND:g}",
        }[level]
        yield Verdict(level, f"{who}: accuracy {_told(metric)}; {beside}{gated}: {meaning}.")
        control = _beside(results, metric, "shuffled label accuracy", "synthetic")
        if (
            control
            and control.low is not None
            and control.high is not None
            and not control.low <= 0.5 <= control.high
        ):
            yield Verdict("bad", f"{who}: with shuffled labels {_told(control)}, which is not chance.")


def _told(metric: Metric) -> str:
    return f"{number(metric.value)} ({interval(metric)})"


def _beside(results: Results, metric: Metric, name: str, arm: str) -> Metric | None:
    """The metric of that name and arm of the same finding and extractor, where it has a value."""
    found = [m for m in results.metrics if _same(m, metric, name, arm) and m.value is not None]
    return found[0] if found else None


def _same(metric: Metric, other: Metric, name: str, arm: str) -> bool:
    return (metric.name, metric.arm, metric.finding, metric.extractor, metric.subgroup) == (
        name,
        arm,
        other.finding,
        other.extractor,
        None,
    )


def _resemblance(results: Results) -> Iterator[Verdict]:
    thin: list[str] = []
    for metric in results.metrics:
        if metric.name != "KID":
            continue
        if metric.value is None or metric.low is None or metric.floor is None:
            said = f"{_words(metric.finding)}, {metric.reason or 'no interval'}"
            thin += [said] if said not in thin else []
            continue
        who = f"{_words(metric.finding).capitalize()}, in features of {metric.extractor}"
        covered = _beside(results, metric, "coverage", "synthetic")
        beside = (
            f"; coverage {number(covered.value)}, of real films {number(covered.floor)}" if covered else ""
        )
        apart = metric.low > max(metric.floor, 0)
        said = "told apart from real films" if apart else "not told apart from real films"
        figures = f"KID {_told(metric)}, real films {number(metric.floor)}{beside}; {metric.n} films of each"
        yield Verdict("bad" if apart else "good", f"{who}: {said}. {figures}.")
    if thin:
        yield Verdict("open", f"Resemblance could not be measured: {'; '.join(thin)}.")


def _privacy(results: Results) -> Iterator[Verdict]:
    for metric in results.metrics:
        if metric.name == NAMES[0]:
            if metric.value is None or metric.low is None or metric.high is None or metric.floor is None:
                yield Verdict("open", f"Copies of training films: {metric.reason}.")
                continue
            more = metric.low > metric.floor
            level: Level = "bad" if more else "good" if metric.high <= CLEAR * metric.floor else "open"
            meaning = "more than innocent films would" if more else "no sign of copies"
            meaning += f"; a share of up to {number(metric.high)} is not ruled out" if level == "open" else ""
            yield Verdict(
                level,
                f"Copies of training films: a share of {_told(metric)} of {metric.n} films lies nearer to a training film "
                f"than all but {metric.floor:g} of unseen real films do: {meaning}.",
            )
        elif metric.name == MEMBERSHIP and metric.value is not None and metric.low is not None:
            found = f"Membership inference: AUROC {_told(metric)}"
            if metric.note:
                yield Verdict("open", f"{found}; {metric.note}.")
            elif metric.low > 0.5:
                yield Verdict("bad", f"{found}: training films can be told from unseen ones.")
            else:
                yield Verdict("good", f"{found}: no sign that training films can be told from unseen ones.")


def _gaps(results: Results) -> Iterator[Verdict]:
    gaps = [m for m in results.metrics if m.name == GAP and m.arm == "real" and m.low is not None]
    wide = [m for m in gaps if (m.low or 0) > 0 or (m.high or 0) < 0]
    if gaps:
        worst = max(wide, key=lambda m: abs(m.value or 0)) if wide else None
        named = f", the widest {worst.subgroup}: {_told(worst)}" if worst else ""
        chance = 0.05 * len(gaps)
        yield Verdict(
            "open",
            f"Under-diagnosis on real films: {len(wide)} of {len(gaps)} gaps leave 0 out{named}; about {chance:.1f} would "
            "by chance.",
        )


def _utility(results: Results) -> Iterator[Verdict]:
    """The study's own verdicts: arms chosen on validation, then what holds over all comparisons, then what shows nothing."""
    if results.protocol.startswith(("REHEARSAL", "DEMONSTRATION")):
        yield Verdict("open", f"{results.protocol}.")
    curve = results.settings.get("curve")
    if not curve:
        yield from _differences(results)
        return
    places = {(point["depth"], point["size"], point["arm"]): point for point in curve}
    for one in results.settings.get("chosen") or ():
        point = places[one["depth"], one["size"], one["arm"]]
        yield Verdict(
            _level(point, point["p"]),
            f"{_where(point)}: chosen on validation, {point['arm']}: {_gap(point)}.",
        )
    compared = [point for point in curve if "difference" in point]
    for point in compared:
        if point["p_holm"] < 0.05:
            yield Verdict(_level(point, point["p_holm"]), f"{_where(point)}: {point['arm']}: {_gap(point)}.")
    for where in dict.fromkeys(_where(point) for point in compared):
        same = [p for p in compared if _where(p) == where and p["p_holm"] >= 0.05]
        limits = [
            p["detectable"] for p in same if p["detectable"] is not None and p["detectable"] < IMPLAUSIBLE
        ]
        ends = dict.fromkeys(number(limit) for limit in (min(limits), max(limits))) if limits else {}
        could = f"; this design could have shown {' to '.join(ends)}" if ends else ""
        if same:
            yield Verdict(
                "open", f"{where}: no difference shown for {', '.join(p['arm'] for p in same)}{could}."
            )


def _where(point: Mapping[str, Any]) -> str:
    return f"{point['depth'].capitalize()}, {words(point['size'])}"


def _gap(point: Mapping[str, Any]) -> str:
    low, high = point["difference_low"], point["difference_high"]
    span = "without an interval" if low is None else f"({low:+.3f} to {high:+.3f})"
    return f"{point['difference']:+.3f} AUROC {span} beside real films alone"


def _level(point: Mapping[str, Any], p: float) -> Level:
    return "open" if p >= 0.05 else "good" if point["difference"] > 0 else "bad"


def _differences(results: Results) -> Iterator[Verdict]:
    for metric in results.metrics:
        if not metric.name.endswith("difference") or metric.value is None:
            continue
        where = " · ".join(part for part in (metric.arm, metric.finding, metric.subgroup) if part)
        said = f"{where}: {metric.name} {metric.value:+.3f}"
        if metric.low is None or metric.high is None:
            yield Verdict("open", f"{said}, without an interval.")
            continue
        level: Level = "good" if metric.low > 0 else "bad" if metric.high < 0 else "open"
        meaning = {"good": "a gain", "bad": "a loss", "open": "no difference shown"}[level]
        yield Verdict(level, f"{said} ({metric.low:+.3f} to {metric.high:+.3f}): {meaning}.")
