"""Did an insertion change the asked finding, only that, and where it usually lies?

Conventions: of n pairs, `before` and `after` are a detector's probabilities (n, findings); a pair's films, masks and
difference maps are (H, W), masks 0 where the members are equal by construction. A detector calls a finding present from its
own threshold on. Films of one patient are one group of the intervals; drawn pairs are a group each.

    score                mean probability of the asked finding: before, after, after - before (t interval, cut to its range)
    turned present       share of pairs called absent before and present after (Wilson)
    only the asked       of these, no other finding changed sides; `no_finding` may, it must (Wilson, of all pairs)
    SSIM outside         mean of the map of Wang et al. 2004 (11 x 11 Gaussian, sigma 1.5) over pixels outside of the mask
    usual place          share of the change, |after - before| summed, inside the smallest region that holds half of the mass
                         of radiologists' boxes of the finding; its floor is that region's share of the film

SSIM outside is below 1 only where its window looks across the mask's edge: the pixels themselves are equal. The boxes' own
sampling error is not in the interval.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from synthaug.datasets import RealRadiographs
from synthaug.datasets.formats.nih import boxes as boxes_of
from synthaug.datasets.splits import parts_of
from synthaug.detection.predict import predict
from synthaug.errors import DataError
from synthaug.evaluation.intervals import mean_interval, proportion
from synthaug.evaluation.label_fidelity import Judge, judges
from synthaug.evaluation.results import Metric, Results, missing, protocol_id
from synthaug.findings import NO_FINDING
from synthaug.generation.insert_folder import Pair, read_pairs
from synthaug.generation.insert_source import source_films

AT_ONCE = 64
GRID = 256
PLACE_MASS = 0.5
SPLIT = "nih-sample"


def turned_present(before: np.ndarray, after: np.ndarray, threshold: float) -> np.ndarray:
    """Which pairs (n,) a detector calls absent before and present after."""
    return (before < threshold) & (after >= threshold)


def only_asked(before: np.ndarray, after: np.ndarray, thresholds: np.ndarray, asked: int) -> np.ndarray:
    """Which pairs (n,) turned present in column `asked` of (n, f) while every other column stayed on its side."""
    others = np.arange(len(thresholds)) != asked
    moved = ((before >= thresholds) != (after >= thresholds))[:, others].any(1)
    return turned_present(before[:, asked], after[:, asked], thresholds[asked]) & ~moved


def ssim_map(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """SSIM at each pixel of two uint8 films (H, W), edges mirrored."""
    x, y = first.astype(np.float64), second.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def blurred(values: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(values, 1.5, radius=5, mode="mirror"))

    mx, my = blurred(x), blurred(y)
    vx, vy, vxy = blurred(x * x) - mx * mx, blurred(y * y) - my * my, blurred(x * y) - mx * my
    return ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))


def ssim_outside(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> float:
    """Mean of `ssim_map` where the mask is 0; NaN where it is 0 nowhere."""
    outside = mask == 0
    return float(ssim_map(before, after)[outside].mean()) if outside.any() else float("nan")


def usual_place(
    boxes: Iterable[tuple[float, float, float, float]], grid: int = GRID, mass: float = PLACE_MASS
) -> np.ndarray:
    """The smallest set of pixels, bool (grid, grid), that holds `mass` of all boxes' mass, each box counting 1 in all.

    Args:
        boxes: x, y, w, h as shares of the film.
    """
    held = np.zeros((grid, grid))
    for x, y, w, h in boxes:
        one = np.zeros_like(held)
        rows = slice(round(y * grid), max(round(y * grid) + 1, round((y + h) * grid)))
        columns = slice(round(x * grid), max(round(x * grid) + 1, round((x + w) * grid)))
        one[rows, columns] = 1
        held += one / max(one.sum(), 1)
    if not held.any():
        raise DataError("no box inside the film")
    order = np.argsort(held, axis=None, kind="stable")[::-1]
    total = np.cumsum(held.ravel()[order])
    count = int(np.searchsorted(total, mass * total[-1] * (1 - 1e-12))) + 1
    place = np.zeros(grid * grid, dtype=bool)
    place[order[:count]] = True
    return place.reshape(grid, grid)


def share_inside(difference: np.ndarray, place: np.ndarray) -> float:
    """Share of a difference map (H, W) inside a place (g, g), read at each pixel's nearest; NaN where nothing differs."""
    total = float(difference.sum())
    rows, columns = ((np.arange(n) * g) // n for n, g in zip(difference.shape, place.shape, strict=True))
    return float(difference[place[np.ix_(rows, columns)]].sum() / total) if total else float("nan")


def radiologist_boxes(
    nih: RealRadiographs, finding: str, split: str = SPLIT
) -> list[tuple[float, float, float, float]]:
    """Boxes of a finding as shares of the film, those of the split's part `test` left out."""
    closed = set(parts_of(nih, split).get("test", np.array([], int)).tolist())
    return [
        box[1:]
        for index, record in enumerate(nih.records)
        if index not in closed
        for box in boxes_of(record, 1)
        if box[0] == finding
    ]


def measure(
    out: Path,
    detectors: Sequence[str | Path],
    boxes: Path | None = None,
    into: Path | None = None,
    device: str = "auto",
) -> Results:
    """The figures of a folder of `synthaug insert`.

    Args:
        detectors: "embedded" or folders.
        boxes: an NIH ChestX-ray14 folder with `BBox_List_2017.csv`, or None.
        into: the films that were given, whose patients group the intervals.

    Raises:
        DataError: no pairs there.
        DetectorError: a detector cannot be opened.
    """
    found: list[_Seen] = []
    watching = judges(detectors, device)
    pairs, place, count = read_pairs(out), None, 0
    while part := list(islice(pairs, AT_ONCE)):
        finding = str(part[0].records[1].provenance["inserted"])
        if boxes is not None and not found:
            held = radiologist_boxes(RealRadiographs(boxes), finding)
            place, count = (usual_place(held) if held else None), len(held)
        found += _seen(part, watching, place)
    if not found:
        raise DataError(f"{out}: no pair; `synthaug insert` makes them")
    groups = _groups(found, finding, into)
    metrics: list[Metric] = []
    for number, judge in enumerate(watching):
        metrics += _judged(judge, np.stack([seen.scores[number] for seen in found], 1), finding, groups)
    outside = np.array([seen.ssim_outside for seen in found])
    metrics.append(_mean("SSIM outside the mask", outside, groups, finding=finding))
    name = "change inside the usual place"
    if place is None:
        reason = f"no box of {finding} in --boxes" if boxes else "no --boxes: the usual place is not known"
        metrics.append(missing(name, reason, finding=finding))
    else:
        facts = {"floor": float(place.mean()), "note": f"floor: the place's share of the film; {count} boxes"}
        inside = np.array([seen.inside for seen in found])
        metrics.append(_mean(name, inside, groups, finding=finding, **facts))
    settings = {"pairs": len(found), "finding": finding, "boxes": count, "place_mass": PLACE_MASS}
    return Results(kind="evaluate", protocol=protocol_id("insertion", 1), settings=settings, metrics=metrics)


@dataclass(frozen=True)
class _Seen:
    """What is kept of a pair: `scores` (2, findings) of each detector, its source's key, and the figures of its pixels."""

    scores: list[np.ndarray]
    source: str | None
    ssim_outside: float
    inside: float


def _seen(pairs: Sequence[Pair], watching: Sequence[Judge], place: np.ndarray | None) -> list[_Seen]:
    films = np.stack([film for pair in pairs for film in pair.films])[:, None]
    scores = [predict(judge.detector, films).reshape(len(pairs), 2, -1) for judge in watching]
    out = []
    for number, pair in enumerate(pairs):
        apart = np.abs(pair.films[1].astype(np.int16) - pair.films[0])
        out.append(
            _Seen(
                scores=[of_all[number] for of_all in scores],
                source=pair.records[1].provenance.get("source", {}).get("key"),
                ssim_outside=ssim_outside(*pair.films, pair.mask),
                inside=float("nan") if place is None else share_inside(apart, place),
            )
        )
    return out


def _groups(found: Sequence[_Seen], finding: str, into: Path | None) -> list[str]:
    """The patient of each pair's source; where that is not known, the source or the pair itself."""
    patients = {film.key: film.group for film in source_films(into, finding)} if into else {}
    return [
        f"pair:{number}" if seen.source is None else patients.get(seen.source, f"film:{seen.source}")
        for number, seen in enumerate(found)
    ]


def _judged(judge: Judge, scores: np.ndarray, finding: str, groups: Sequence[str]) -> list[Metric]:
    """The figures of one detector's scores (2, n, findings)."""
    facts: dict[str, Any] = {"finding": finding, "extractor": judge.name, "resize": judge.resize}
    findings = judge.detector.findings
    names = (
        "score before",
        "score after",
        "score after - before",
        "turned present",
        "only the asked finding",
    )
    if finding not in findings:
        return [missing(name, f"the detector does not know {finding}", **facts) for name in names]
    kept = [i for i, name in enumerate(findings) if name != NO_FINDING]
    before, after = np.asarray(scores, np.float64)[..., kept]
    asked = kept.index(findings.index(finding))
    cuts = np.array([judge.detector.config.threshold(findings[i]) for i in kept])
    facts["protocol"] = protocol_id("insertion", 1, judge.digest)
    means = before[:, asked], after[:, asked], after[:, asked] - before[:, asked]
    shares = turned_present(means[0], means[1], cuts[asked]), only_asked(before, after, cuts, asked)
    out = [_mean(name, values, groups, **facts) for name, values in zip(names[:3], means, strict=True)]
    for name, outcomes in zip(names[3:], shares, strict=True):
        low, high = proportion(outcomes.astype(float), groups)
        value = float(outcomes.mean())
        out.append(Metric(name=name, value=value, low=low, high=high, n=len(outcomes), **facts))
    return out


def _mean(name: str, values: np.ndarray, groups: Sequence[str], **facts: Any) -> Metric:
    """The mean of what could be computed."""
    known = np.isfinite(values)
    if not known.any():
        return missing(name, "no pair has a value", **facts)
    found = mean_interval(values[known], [group for group, kept in zip(groups, known, strict=True) if kept])
    # Every figure here lies in -1 ... 1, and all but a difference in 0 ... 1; a t interval of few pairs knows nothing of that.
    least = -1.0 if found.value < 0 or " - " in name else 0.0
    low, high = (float(np.clip(end, least, 1.0)) for end in (found.low, found.high))
    plain: dict[str, Any] = {"value": found.value, "low": low, "high": high, "n": int(known.sum())}
    return Metric(name=name, **plain, **facts)
