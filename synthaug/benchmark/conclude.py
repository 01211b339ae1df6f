"""From the scores of a finished study to `results.json`, a table and plain verdicts.

Every arm is compared with `real` of the same size, paired by film and draw (`statistics`). All comparisons of a study with
`real` are one family: a verdict of help or harm holds at 5 % over the whole family (Holm), while the intervals shown are 95 %
each. Beside them stands, for each size, the synthetic arm of the best mean AUROC on validation: one comparison, chosen
without the judge's films, uncorrected.

`settings.curve` lists every point for those who draw it: {depth, size, arm, present, absent, validation, auroc, low, high,
difference, difference_low, difference_high, p, p_holm, detectable}; AUROC in [0, 1], present and absent the films trained on.
`settings.curves` has the ROC, precision-recall and reliability of each point (`synthaug.benchmark.curves`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit

from synthaug.benchmark.arms import Size, Stage, uses_synthetic
from synthaug.benchmark.curves import calibrated, curves_of
from synthaug.benchmark.folder import read_scores
from synthaug.benchmark.frozen import Score
from synthaug.benchmark.material import Material, counts
from synthaug.benchmark.statistics import Figure, auroc_influence, figure, holm
from synthaug.benchmark.study import Cell, Depth, Study
from synthaug.evaluation.results import Metric, Results, missing, table
from synthaug.shards import atomic_write

CLAIMS = {
    "closed": "closed: the generator was adapted on the real arm's own films only, and its base never saw the finding",
    "transfer": "transfer: a ready generator that saw other films; its control is real + the generator's training films",
    "demonstration": "DEMONSTRATION on drawn toy pictures: it shows the procedure and is no evidence of anything",
}
REHEARSAL = "REHEARSAL on validation films, for choices only: the test part stayed closed"
INTERVAL = "95 %, patients crossed with (subset, seed) draws, t with Hillis' degrees of freedom"
ONE_DRAW = "95 %, patients only: one draw says nothing of other subsets and seeds"
DIFFERENCE, SMALLEST = "AUROC difference", "AUROC difference, smallest that could have been shown"
# A difference of AUROC that no films bring about: where only such ones could be shown, none could.
IMPLAUSIBLE = 0.5
CHOSEN = "AUROC difference, arm chosen on validation"


def words(size: Size) -> str:
    """A size as words."""
    return "all real films" if size == "all" else f"{size} real films a label"


def conclude(study: Study, out: str | Path, command: str | None = None) -> Results:
    """Compute the figures of a finished study and write `results.json` and `results.md` to `out`.

    Arguments: `command` repeats the study; folders by name alone.
    """
    results = figures(study, read_scores(study, out))
    results.settings["command"] = command
    results.write(out)
    text = f"{results.protocol}\n\n{verdict(results)}\n\n{table(results.metrics)}\n"
    atomic_write(Path(out) / "results.md", text.encode())
    return results


def figures(study: Study, scores: dict[Cell, Score]) -> Results:
    """The results of a study's scores."""
    recipe = study.recipe
    points: dict[tuple[Depth, Size, str], dict[str, Any]] = {}
    gaps: dict[tuple[Depth, Size, str], Figure] = {}
    drawable: list[dict[str, Any]] = []
    for depth, grid in recipe.grids.items():
        for size in grid.sizes:
            for arm in grid.arms:
                cells = [
                    cell for cell in study.cells if (cell.depth, cell.size, cell.arm) == (depth, size, arm)
                ]
                if not cells:
                    continue
                held = [scores[cell] for cell in cells]
                points[depth, size, arm] = _point(study, cells, held)
                drawable.append(
                    {"depth": depth, "size": size, "arm": arm, **_curves(study.material[depth], depth, held)}
                )
                if arm != "real":
                    base = [Cell(depth, "real", size, cell.seed) for cell in cells]
                    if all(cell in scores for cell in base):
                        gaps[depth, size, arm] = _gap(study.material[depth], held, [scores[c] for c in base])
    family = {key: gap.p for key, gap in gaps.items()}
    adjusted = dict(
        zip(family, holm({str(i): p for i, p in enumerate(family.values())}).values(), strict=True)
    )
    metrics: list[Metric] = []
    for key, point in points.items():
        if key in gaps:
            _add_gap(point, gaps[key], adjusted[key], len(family))
        metrics += _metrics(study, key, point)
    for (depth, arm, size), reason in study.reasons.items():
        metrics.append(
            missing(
                "AUROC", reason, finding=recipe.finding, arm=_arm(arm, size), extractor=_network(study, depth)
            )
        )
    chosen = _chosen(points)
    for (depth, size), key in chosen.items():
        metrics += _chosen_metrics(study, depth, size, points[key])
    protocol = CLAIMS[recipe.claim]
    if recipe.judge == "validation" and recipe.claim != "demonstration":
        protocol = f"{REHEARSAL}. {protocol}"
    settings = {
        "recipe": recipe.values(),
        "films": {
            depth: {side: counts(films) for side, films in material.sides().items()}
            for depth, material in study.material.items()
        },
        "networks": {depth: _network(study, depth) for depth in recipe.grids},
        "starts": sorted({score.note for cell, score in scores.items() if cell.depth == "full"}),
        "notes": list(dict.fromkeys(note for material in study.material.values() for note in material.notes)),
        "interval": INTERVAL if len(recipe.seeds) > 1 else ONE_DRAW,
        "family": len(family),
        "curve": [{"depth": d, "size": s, "arm": a, **point} for (d, s, a), point in points.items()],
        "curves": drawable,
        "chosen": [{"depth": d, "size": s, "arm": key[2]} for (d, s), key in chosen.items()],
    }
    return Results(kind="benchmark", protocol=protocol, settings=settings, metrics=metrics)


def _point(study: Study, cells: Sequence[Cell], scores: Sequence[Score]) -> dict[str, Any]:
    material = study.material[cells[0].depth]
    labels, patients = material.judge.labels[:, 0], material.judge.patients
    judged = np.stack([score.judge for score in scores])
    found = figure(judged, labels, patients)
    cuts = [score.threshold for score in scores]
    accuracy = figure(judged, labels, patients, cuts)
    truth = material.validation.labels[:, 0]
    present, absent = _trained_on(study.cells[cells[0]], material)
    return {
        "present": present,
        "absent": absent,
        "draws": len(cells),
        "validation": _round(
            float(np.mean([auroc_influence(score.validation, truth)[0] for score in scores]))
        ),
        "auroc": _round(found.value),
        "low": _round(max(0.0, found.low)),
        "high": _round(min(1.0, found.high)),
        "balanced_accuracy": _round(accuracy.value),
        "balanced_accuracy_low": _round(max(0.0, accuracy.low)),
        "balanced_accuracy_high": _round(min(1.0, accuracy.high)),
    }


def _curves(material: Material, depth: Depth, scores: Sequence[Score]) -> dict[str, Any]:
    labels, truth = material.judge.labels[:, 0], material.validation.labels[:, 0]
    judged = np.stack([score.judge for score in scores])
    # Trained detectors give probabilities, frozen ones logits already.
    logits = (lambda values: logit(np.clip(values, 1e-6, 1 - 1e-6))) if depth == "full" else (lambda v: v)
    probabilities = [calibrated(logits(s.validation), truth, logits(s.judge)) for s in scores]
    found = curves_of(judged, np.stack(probabilities), labels, material.judge.patients)
    counted = counts(material.judge)
    return {"present": counted["present"], "absent": counted["absent"], "draws": len(scores), **found}


def _trained_on(plan: Sequence[Stage], material: Material) -> tuple[int, int]:
    """Present and absent films of all stages; a film that is there twice counts twice."""
    sources = {
        "real": material.training,
        "augmented": material.training,
        "synthetic": material.synthetic,
        "generator": material.generator,
    }
    labels = np.concatenate(
        [
            films.labels[p.indices, 0]
            for stage in plan
            for p in stage
            if (films := sources[p.source]) is not None
        ]
    )
    return int((labels == 1).sum()), int((labels == 0).sum())


def _gap(material: Material, ours: Sequence[Score], theirs: Sequence[Score]) -> Figure:
    return figure(
        np.stack([score.judge for score in ours]),
        material.judge.labels[:, 0],
        material.judge.patients,
        other=np.stack([score.judge for score in theirs]),
    )


def _add_gap(point: dict[str, Any], gap: Figure, adjusted: float, family: int) -> None:
    point |= {
        "difference": _round(gap.value),
        "difference_low": _round(gap.low),
        "difference_high": _round(gap.high),
        "p": gap.p,
        "p_holm": adjusted,
        "detectable": _round(gap.detectable(family)),
        "detectable_alone": _round(gap.detectable()),
    }


def _metrics(study: Study, key: tuple[Depth, Size, str], point: dict[str, Any]) -> list[Metric]:
    depth, size, arm = key
    facts = _facts(study, depth)
    out = [
        Metric(
            name="AUROC",
            arm=_arm(arm, size),
            value=point["auroc"],
            low=point["low"],
            high=point["high"],
            **facts,
        ),
        Metric(
            name="balanced accuracy",
            arm=_arm(arm, size),
            value=point["balanced_accuracy"],
            low=point["balanced_accuracy_low"],
            high=point["balanced_accuracy_high"],
            **facts,
        ),
    ]
    if "difference" in point:
        name = f"{_arm(arm, size)} - real"
        low, high = point["difference_low"], point["difference_high"]
        out.append(Metric(name=DIFFERENCE, arm=name, value=point["difference"], low=low, high=high, **facts))
        out.append(Metric(name=SMALLEST, arm=name, value=point["detectable"], **facts))
    return out


def _chosen(
    points: dict[tuple[Depth, Size, str], dict[str, Any]],
) -> dict[tuple[Depth, Size], tuple[Depth, Size, str]]:
    """For each depth and size, the synthetic arm of the best mean AUROC on validation."""
    best: dict[tuple[Depth, Size], tuple[Depth, Size, str]] = {}
    for key, point in points.items():
        depth, size, arm = key
        if not uses_synthetic(arm) or "difference" not in point:
            continue
        before = best.get((depth, size))
        if before is None or point["validation"] > points[before]["validation"]:
            best[depth, size] = key
    return best


def _chosen_metrics(study: Study, depth: Depth, size: Size, point: dict[str, Any]) -> list[Metric]:
    low, high = point["difference_low"], point["difference_high"]
    return [
        Metric(
            name=CHOSEN,
            arm=f"{words(size)} - real",
            value=point["difference"],
            low=low,
            high=high,
            **_facts(study, depth),
        )
    ]


def _facts(study: Study, depth: Depth) -> dict[str, Any]:
    judge = study.material[depth].judge
    return {"finding": study.recipe.finding, "n": len(judge), "extractor": _network(study, depth)}


def _network(study: Study, depth: Depth) -> str:
    recipe = study.recipe
    if depth == "full":
        return f"trained {recipe.train.arch}, {recipe.train.image_size} px"
    return f"frozen {recipe.extractor}, {study.material['frozen'].judge.images.shape[-1]} px"


def _arm(arm: str, size: Size) -> str:
    return f"{arm}, {words(size)}"


def _round(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None


def verdict(results: Results) -> str:
    """One plain line for each arm and size, those chosen on validation first."""
    curve = {(p["depth"], p["size"], p["arm"]): p for p in results.settings["curve"]}
    lines = []
    for one in results.settings["chosen"]:
        point = curve[one["depth"], one["size"], one["arm"]]
        lines.append(
            f"{one['depth']}, {words(one['size'])}: chosen on validation: {one['arm']}, "
            f"{_said(point, point['p'], point['detectable_alone'])}"
        )
    lines += [""] if lines else []
    for (depth, size, arm), point in curve.items():
        if "difference" in point:
            lines.append(
                f"{depth}, {words(size)}: {arm} {_said(point, point['p_holm'], point['detectable'])}"
            )
    return "\n".join(lines).strip() or "No two arms to compare."


def _said(point: dict[str, Any], p: float, limit: float | None) -> str:
    if point["difference_low"] is None or limit is None:
        return f"{point['difference']:+.3f} AUROC, without an interval"
    span = f"{point['difference']:+.3f} AUROC [{point['difference_low']:.3f}, {point['difference_high']:.3f}]"
    if p < 0.05:
        return f"{'helps' if point['difference'] > 0 else 'harms'} by {span}"
    if limit >= IMPLAUSIBLE:
        return f"no difference shown, {span}; this design could have shown none (more draws, or fewer arms and sizes)"
    return f"no difference shown, {span}; this design could have shown {limit:.3f}"
