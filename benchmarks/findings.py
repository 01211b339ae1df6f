"""Which findings a checkpoint draws so that detectors know them: the test that decides what it offers.

    python benchmarks/findings.py --real NIH --model CHECKPOINT --detector JUDGE [JUDGE2 ...] [--finding cardiomegaly ...]
        [--count 40] [--aim 0.9] [--between-aim 0.7] [--part validation] [--out findings]

Draws COUNT films of each finding (by default every one that the first detector knows and real films of the part show) and COUNT
without a finding, each view of the checkpoint equally often, noises not shared; findings that the card does not offer are drawn
by prompt. Then one question for each detector and pair: how well does its logit of a finding tell films asked for that finding
from films asked for another (AUROC)? Against `no_finding` any large opacity passes for any finding; against the other
findings only films that show the finding itself do. Beside it stands the same of real films of the part, with the finding
and without the other against the reverse; their views are as they come. The mean of a finding is over the others for which there
are 5 real films on either side.

A finding is offered where, with every detector that knows it, the AUROC against `no_finding` reaches --aim and the mean reaches
--between-aim (by default the lower end of that detector's own interval on real films, and .5 at least), and where its films look
right. The checkpoint's card says of every other one why it is refused (`refused`). Prints heat maps, and which findings reach
both aims, or why not; the same command resumes.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from synthaug.auroc import auroc, resample_groups
from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection.predict import logits
from synthaug.diffusion import load_checkpoint
from synthaug.evaluation.intervals import Estimate, estimate
from synthaug.evaluation.label_fidelity import Judge, judges, noise_clusters
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.results import Metric, Results, missing, protocol_id, table
from synthaug.evaluation.together import Together
from synthaug.findings import FINDINGS, NO_FINDING, canonical
from synthaug.generation import GenerateRecipe, PlanEntry, generate
from synthaug.prompts import render

LEAST, CHANCE = 5, 0.5  # real films on either side of a pair; what is always asked of a mean
REPLICATES = 2000
PAIR, MEAN = "AUROC against", "mean AUROC against other findings"


@dataclass(frozen=True, slots=True)
class Films:
    """Films with their labels (n,) by finding, 1, 0 or NaN, and the cluster of each."""

    data: Any
    labels: Mapping[str, np.ndarray]
    clusters: Sequence[str]

    def sides(self, finding: str, other: str) -> np.ndarray:
        """1 with the finding and without the other, 0 the reverse, NaN on neither side; (n,)."""
        ours, theirs = self.labels[finding], self.labels[other]
        return np.select([(ours == 1) & (theirs == 0), (ours == 0) & (theirs == 1)], [1.0, 0.0], np.nan)

    def counts(self, finding: str, other: str) -> tuple[int, int]:
        """Films on the two sides of a pair."""
        sides = self.sides(finding, other)
        return int((sides == 1).sum()), int((sides == 0).sum())


def plan(finding: str, views: Sequence[str], count: int, template: str) -> tuple[PlanEntry, ...]:
    """COUNT films of a finding, or one more, each view equally often; the prompt stands, so that the card is not asked."""
    labels, each = {finding: 1.0}, -(-count // len(views))
    return tuple(
        PlanEntry(labels=labels, view=view, prompt=render(labels, view, template=template), count=each)
        for view in views
    )


def areas(
    scores: np.ndarray, sides: Mapping[str, np.ndarray], clusters: Sequence[str], averaged: Sequence[str]
) -> tuple[dict[str, Estimate], Estimate]:
    """AUROC of each pair of sides, and the mean of those averaged (NaN of none); one resampling of the clusters for all.

    Arguments: scores (n,); sides (n,) of 1, 0 and NaN by the other finding.
    """
    rng = np.random.default_rng(0)
    weights = np.concatenate([np.ones((1, len(scores))), resample_groups(clusters, REPLICATES, rng)])
    drawn = {}
    for other, side in sides.items():
        used = np.isfinite(side)
        drawn[other] = auroc(scores[used], side[used], weights[:, used])
    mean = np.mean([drawn[other] for other in averaged], axis=0) if averaged else np.full(1, np.nan)
    found = {other: estimate(float(values[0]), values[1:]) for other, values in drawn.items()}
    return found, estimate(float(mean[0]), mean[1:])


def told_apart(judge: Judge, drawn: Films, real: Films, asked: Sequence[str]) -> list[Metric]:
    """Every pair of findings by one detector, on synthetic films and on real ones, and the means over the same others."""
    arms = {"synthetic": drawn, "real": real}
    seen = {arm: logits(judge.detector, films.data) for arm, films in arms.items()}
    out = []
    for finding in (finding for finding in asked if finding in judge.detector.findings):
        others = [NO_FINDING, *(other for other in asked if other != finding)]
        shown = [other for other in others if min(real.counts(finding, other)) >= LEAST]
        averaged = [other for other in shown if other != NO_FINDING] or others[1:]
        for arm, films in arms.items():
            scores = seen[arm][:, judge.detector.findings.index(finding)]
            compared = shown if arm == "real" else others
            over = [other for other in averaged if other in compared]
            pairs = {other: films.sides(finding, other) for other in compared}
            each, mean = areas(scores, pairs, films.clusters, over)
            facts: dict[str, Any] = {"finding": finding, "arm": arm}
            facts |= {"extractor": judge.name, "resize": judge.resize}
            for other in others:
                ones, zeros = films.counts(finding, other)
                facts["subgroup"] = other
                if other in each:
                    protocol = protocol_id(PAIR, 1, judge.digest, finding, other)
                    out.append(_metric(PAIR, each[other], n=ones + zeros, protocol=protocol, **facts))
                else:
                    few = f"{ones} and {zeros} films of either and not the other; {LEAST} are needed"
                    out.append(missing(PAIR, few, **facts))
            facts["subgroup"] = None
            if over:
                protocol = protocol_id(MEAN, 1, judge.digest, finding, over)
                note = f"over {len(over)} findings"
                out.append(_metric(MEAN, mean, n=len(scores), note=note, protocol=protocol, **facts))
            else:
                out.append(missing(MEAN, "no other finding to set it against", **facts))
    return out


def _metric(name: str, found: Estimate, **facts: Any) -> Metric:
    return Metric(name=name, value=found.value, low=found.low, high=found.high, **facts)


def refusals(
    metrics: Sequence[Metric], finding: str, aim: float, between_aim: float | None = None
) -> list[str]:
    """Why a finding is not offered, detector by detector; nothing where both aims are reached."""
    mine = [m for m in metrics if m.finding == finding]
    out = []
    for name in dict.fromkeys(m.extractor for m in mine):
        held = {(m.name, m.subgroup, m.arm): m for m in mine if m.extractor == name}
        clear, mean = held[PAIR, NO_FINDING, "synthetic"], held[MEAN, None, "synthetic"]
        own = held[MEAN, None, "real"].low
        least = between_aim if between_aim is not None or own is None else max(own, CHANCE)
        if clear.value is None or clear.value < aim:
            out.append(f"{name}: {_said(clear)} against films without a finding, asked {aim:.3f}")
        if least is None:
            out.append(f"{name}: too few real films to say what to ask between findings; give --between-aim")
        elif mean.value is None or mean.value < least:
            out.append(f"{name}: {_said(mean)} on average against other findings, asked {least:.3f}")
    return out if mine else ["no detector knows it"]


def _said(metric: Metric) -> str:
    return f"no AUROC ({metric.reason})" if metric.value is None else f"AUROC {metric.value:.3f}"


def heat_map(metrics: Sequence[Metric], judge: str, arm: str, asked: Sequence[str]) -> Table:
    """A row a finding whose logit is asked, a column a finding of other films, by the rows' numbers; pale at .5, dark at 1."""
    columns = (NO_FINDING, *asked)
    held = {
        (m.finding, m.subgroup if m.name == PAIR else MEAN): m
        for m in metrics
        if m.extractor == judge and m.arm == arm
    }
    drawn = Table(title=f"{judge}, {arm} films: AUROC of a row's logit against films of a column", box=None)
    drawn.add_column("")
    for heading in (*(str(number) for number in range(len(columns))), "mean", "95 % interval"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for number, finding in enumerate(columns):
        cells = []
        for other in (*columns, MEAN):
            metric = held.get((finding, other))
            cells.append("" if metric is None else _cell(metric.value))
        mean = held.get((finding, MEAN))
        known = mean is not None and mean.low is not None
        drawn.add_row(f"{number} {finding}", *cells, f"{mean.low:.2f}-{mean.high:.2f}" if known else "")
    return drawn


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    depth = round(200 * min(max(2 * value - 1, 0), 1))
    ink = "white" if depth > 100 else "black"
    return f"[{ink} on rgb({220 - depth},{235 - depth // 2},255)]{value:.2f}[/]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--detector", nargs="+", default=["embedded"])
    parser.add_argument("--finding", nargs="+")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--aim", type=float, default=0.9)
    parser.add_argument("--between-aim", type=float)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--out", type=Path, default=Path("findings"))
    given = parser.parse_args()

    readers = judges(given.detector)
    seen = real_part(RealRadiographs(given.real, min_age=18), given.part)[0]
    shown = [f for f in readers[0].detector.findings if (seen.column(f) == 1).any()]
    asked = [f for f in map(canonical, given.finding or shown) if f != NO_FINDING]
    card, folders = load_checkpoint(given.model).card, {}
    for finding in (NO_FINDING, *asked):
        entries = plan(finding, card.views or ("PA", "AP"), given.count, card.template)
        recipe = GenerateRecipe(plan=entries, seed=FINDINGS.index(finding))
        folders[finding] = generate(recipe=recipe, model=given.model, out=given.out / finding)
        print(
            f"{finding}: {recipe.count} films, {', '.join(str(entry.view) for entry in entries)}", flush=True
        )

    sets = [SyntheticRadiographs(folder, findings=(finding,)) for finding, folder in folders.items()]
    owner = np.repeat(list(folders), [len(one) for one in sets])
    films = Together(sets)
    drawn = Films(films, {f: (owner == f).astype(float) for f in folders}, noise_clusters(films))
    real = Films(seen, {finding: seen.column(finding) for finding in folders}, noise_clusters(seen))
    metrics = [metric for judge in readers for metric in told_apart(judge, drawn, real, asked)]
    reasons = {f: refusals(metrics, f, given.aim, given.between_aim) for f in asked}
    aims = {"aim": given.aim, "between_aim": given.between_aim, "refused": reasons}
    protocol = (
        f"{given.count} films a finding, views in equal numbers, no gate; real films of part {given.part}"
    )
    results = Results(
        kind="evaluate", protocol=protocol, settings={"model": given.model, **aims}, metrics=metrics
    )
    results.write(given.out)
    console = Console(width=max(Console().width, 40 + 6 * len(folders)))
    print(f"{protocol}\n\n{table(m for m in metrics if m.subgroup in (None, NO_FINDING))}\n")
    for judge in readers:
        for arm in ("synthetic", "real"):
            console.print(heat_map(metrics, judge.name, arm, asked), "")
    for finding, why in reasons.items():
        print(f"{finding}: {'; '.join(why) or 'reaches both aims; look at its films'}")


if __name__ == "__main__":
    main()
