"""Curves of a study: scikit-learn's, a closed form, coverage of the bands in simulation; what of them stands on the page."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from benchmark_samples import TINY
from scipy.stats import norm
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from synthaug.benchmark.conclude import conclude
from synthaug.benchmark.curves import GRID, calibrated, curves_of
from synthaug.benchmark.study import Grid, open_study, run_study
from synthaug.evaluation.curves import reliability
from synthaug.evaluation.intervals import proportion
from synthaug.report.page import parts, render
from synthaug.report.study_curves import score_charts

SEPARATION = 1.5


def binormal(seed: int, draws: int = 4, n: int = 120, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Scores (draws, n) of present and absent films SEPARATION deviations apart; films keep a part of theirs in every draw."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(int)
    film = rng.normal(size=n) * np.sqrt(1 - noise**2) + SEPARATION * labels
    return film + noise * rng.normal(size=(draws, n)), labels


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def found(scores: np.ndarray, labels: np.ndarray, patients: list[str] | None = None) -> dict[str, Any]:
    return curves_of(scores, 1 / (1 + np.exp(-scores)), labels, patients or names(len(labels)))


def test_the_curves_of_one_draw_are_scikit_learns_ties_included() -> None:
    scores, labels = binormal(0, 1)
    scores = scores.round(1)
    held = found(scores, labels)
    x, mean, _, _ = np.array(held["roc"]).T
    false, true, _ = roc_curve(labels, scores[0], drop_intermediate=False)
    assert x == pytest.approx(GRID) and mean == pytest.approx(np.interp(GRID, false, true), abs=1e-4)
    recall_at, mean, _, _ = np.array(held["precision_recall"]).T
    precision, recall, _ = precision_recall_curve(labels, scores[0])
    # scikit-learn's recall falls: the last place that still reaches a recall is the highest such threshold.
    expected = [precision[np.flatnonzero(recall >= r - 1e-9)[-1]] for r in recall_at]
    assert mean == pytest.approx(expected, abs=1e-4)


def test_the_mean_over_draws_is_between_them_and_its_area_is_the_mean_auroc() -> None:
    scores, labels = binormal(1, 5, 600)
    x, mean, low, high = np.array(found(scores, labels)["roc"]).T
    each = np.mean([roc_auc_score(labels, row) for row in scores])
    assert np.trapezoid(mean, x) == pytest.approx(each, abs=0.01)
    assert (low <= mean).all() and (mean <= high).all() and (low >= 0).all() and (high <= 1).all()


def test_equal_draws_have_the_band_of_one() -> None:
    scores, labels = binormal(2, 1)
    once, thrice = (np.array(found(np.repeat(scores, m, 0), labels)["roc"]) for m in (1, 3))
    assert thrice == pytest.approx(once, abs=1e-4)


def test_films_of_one_patient_widen_the_band() -> None:
    scores, labels = binormal(3, 1)
    twice, both = np.concatenate([scores, scores], 1), np.concatenate([labels, labels])
    width = {
        name: np.subtract(*np.array(found(twice, both, owners)["roc"])[:, [3, 2]].T)[5:20].mean()
        for name, owners in (("one", names(120) * 2), ("each its own", names(240)))
    }
    assert width["one"] == pytest.approx(width["each its own"] * np.sqrt(2), rel=0.15)


def test_bands_hold_the_binormal_curve() -> None:
    """Sensitivity at .2 and precision at a recall of .6 of films and draws without end, in 95 of 100 studies."""
    at, recall = 8, 24
    truth = float(norm.cdf(SEPARATION + norm.ppf(GRID[at])))
    beyond = norm.sf(SEPARATION + norm.isf(0.6))  # absent films above the threshold of that recall
    precise = 0.6 / (0.6 + 2 * beyond)
    held = [0, 0]
    for seed in range(120):
        curves = found(*binormal(100 + seed))
        for place, (name, index, value) in enumerate(
            (("roc", at, truth), ("precision_recall", recall - 1, precise))
        ):
            _, _, low, high = curves[name][index]
            held[place] += low <= value <= high
    assert held[0] / 120 >= 0.88 and held[1] / 120 >= 0.88, held


def test_calibration_finds_the_posterior_and_bins_keep_patients_together() -> None:
    scores, labels = binormal(4, 1, 6000)
    judged = np.linspace(-1, 3, 9)
    posterior = 1 / (1 + 2 * np.exp(SEPARATION**2 / 2 - SEPARATION * judged))
    assert calibrated(scores[0], labels, judged) == pytest.approx(posterior, abs=0.03)
    apart = np.array([0.0, 0.0, 1.0, 1.0])
    assert np.isfinite(calibrated(apart, apart.astype(int), judged)).all(), (
        "validation that is parted without error"
    )
    probabilities = 1 / (1 + np.exp(-scores[0, :40]))
    owners = [str(i // 2) for i in range(40)]
    (first, *_) = reliability(probabilities, labels[:40], owners)
    order = np.argsort(probabilities)[:10]
    low, high = proportion(labels[order].astype(float), [owners[i] for i in order])
    assert (first["low"], first["high"]) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_a_study_keeps_its_curves_and_all_that_they_are_made_of(tmp_path: Path) -> None:
    grid = Grid(arms=("real", "synthetic"), sizes=(5, "all"))
    study = open_study(recipe=TINY.model_copy(update={"frozen": grid, "full": None}))
    for _ in run_study(study, tmp_path):
        pass
    results = conclude(study, tmp_path)
    films = json.loads((tmp_path / "films.json").read_bytes())
    curve = {(p["depth"], p["size"], p["arm"]): p for p in results.settings["curve"]}
    assert {(c["depth"], c["size"], c["arm"]) for c in results.settings["curves"]} == set(curve)
    for (depth, size, arm), point in curve.items():
        seeds = [c for c in study.cells if (c.depth, c.size, c.arm) == (depth, size, arm)]
        scores = [json.loads((tmp_path / "cells" / f"{c.name}.json").read_bytes())["judge"] for c in seeds]
        labels = films[depth]["judge"]["labels"]
        assert np.mean([roc_auc_score(labels, row) for row in scores]) == pytest.approx(
            point["auroc"], abs=1e-6
        )
        assert len(films[depth]["judge"]["patients"]) == len(labels)
    assert not any(
        key in (tmp_path / "films.json").read_text() for key in study.material["frozen"].judge.keys
    )
    shown = parts(results)
    titles = [part.title for part in shown]
    ranked = [part for part in shown if part.title.startswith("Ranking and calibration")]
    assert titles[1 : 1 + len(ranked)] == [part.title for part in ranked] and all(
        len(p.charts) == 3 for p in ranked
    )
    assert [part.folded for part in ranked] == [True] * (len(ranked) - 1) + [False]
    text = render("Study", [], ranked, [], results.protocol)
    assert text.count("<details>") == sum(part.folded for part in ranked) == text.count("</details>")


def test_a_panel_an_arm_beside_real() -> None:
    scores, labels = binormal(5, 2)
    facts = {"depth": "frozen", "size": 10, "present": 40, "absent": 80}
    held = [
        {**facts, "arm": arm, **found(scores, labels)} for arm in ("real", "synthetic", "<b>real+100%</b>")
    ]
    charts = score_charts(held)
    assert len(charts) == 3 and score_charts(held[1:]) == []
    for chart in charts:
        said = [e.text for e in ElementTree.fromstring(chart).iter("{http://www.w3.org/2000/svg}text")]
        assert {"synthetic", "<b>real+100%</b>"} <= set(said) and "real" not in said
    assert len(score_charts(held[:1])) == 3, "a study of real films alone has its curves too"
