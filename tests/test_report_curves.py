"""Charts of whole curves on the page: learning curves, ROC, reliability, guidance; the study's verdicts; gates."""

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from synthaug.evaluation.curves import BINS, MOST, curves, reliability
from synthaug.evaluation.intervals import wilson
from synthaug.evaluation.results import Metric, Results
from synthaug.report.curves import (
    fidelity_over_guidance,
    learning_curves,
    rank_curves,
    reliability_charts,
)
from synthaug.report.page import page, parts
from synthaug.report.sections import number, row_names, sections
from synthaug.report.verdict import verdicts

FINDING = "pleural_effusion"
EVIL = '<script>alert("x")</script>'


def point(arm: str, size: int | str, auroc: float, **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"depth": "frozen", "size": size, "arm": arm, "auroc": auroc, "validation": auroc}
    facts |= {
        "low": auroc - 0.05,
        "high": auroc + 0.05,
        "present": 100 if size == "all" else size,
        "absent": 50,
    }
    gap: dict[str, Any] = {"difference": 0.03, "difference_low": 0.01, "difference_high": 0.05}
    gap |= {"p": 0.01, "p_holm": 0.2, "detectable": 0.08, "detectable_alone": 0.04}
    return facts | (gap if arm != "real" else {}) | more


def scored(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(float)
    return 1 / (1 + np.exp(-(rng.normal(size=n) + 2 * labels - 1))), labels


def texts(chart: str) -> list[str]:
    root = ElementTree.fromstring(chart)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_curves_are_scikit_learns_within_their_thinning() -> None:
    scores, labels = scored(3000)
    found = curves(scores, labels, finding=FINDING, arm="real", extractor="embedded")
    assert found is not None and found["present"] == 1500
    false, true = np.array(found["roc"]).T
    assert np.trapezoid(true, false) == pytest.approx(roc_auc_score(labels, scores), abs=0.005)
    recall, precision = np.array(found["precision_recall"]).T
    assert (np.diff(recall) >= 0).all() and len(recall) <= MOST >= len(false)
    assert np.trapezoid(precision, recall) == pytest.approx(average_precision_score(labels, scores), abs=0.01)
    assert curves(scores, labels * 0, finding=FINDING) is None


def test_a_bin_of_the_reliability_diagram_is_a_share_with_wilsons_interval() -> None:
    scores, labels = scored(205)
    bins = reliability(scores, labels)
    assert len(bins) == BINS and sum(b["n"] for b in bins) == 205 and {b["n"] for b in bins} <= {20, 21}
    order = np.argsort(scores)[:21]
    low, high = wilson(labels[order].sum(), 21)
    assert bins[0] == {
        "score": pytest.approx(scores[order].mean(), abs=1e-5),
        "share": pytest.approx(labels[order].mean(), abs=1e-5),
        "low": pytest.approx(low, abs=1e-5),
        "high": pytest.approx(high, abs=1e-5),
        "n": 21,
    }
    assert len(reliability(scores[:25], labels[:25])) == 2, "ten films a bin or more"


def test_learning_curves_have_a_panel_an_arm_and_a_chart_a_depth() -> None:
    points = [
        point(arm, size, a) for arm, a in (("real", 0.7), ("real+100%", 0.75)) for size in (10, 50, "all")
    ]
    points += [{**p, "depth": "full"} for p in points if p["size"] == 50]
    frozen, full = learning_curves(points)
    assert {"real+100%", "10", "50", "100"} <= set(texts(frozen)) and "10" not in texts(full)
    assert "currentColor" in frozen and "#010203" not in frozen
    assert learning_curves([]) == [] and learning_curves([point("synthetic", 10, 0.6)]) == []


def test_a_chart_of_scores_names_its_detectors_and_escapes_them() -> None:
    scores, labels = scored()
    held = [curves(scores, labels, finding=FINDING, arm=a, extractor=EVIL) for a in ("synthetic", "real")]
    (ranking,), (calibration,) = rank_curves(held), reliability_charts(held)  # type: ignore[arg-type]
    assert f"{EVIL}, synthetic" in texts(ranking) and any("bins of 40 films" in t for t in texts(calibration))
    for chart in (ranking, calibration):
        assert not [e for e in ElementTree.fromstring(chart).iter() if e.tag.endswith("script")]


def guided(scale: str, accuracy: float, coverage: float) -> list[Metric]:
    facts: dict[str, Any] = {"low": accuracy - 0.05, "high": accuracy + 0.05, "finding": FINDING, "n": 80}
    return [
        Metric(name="label accuracy", value=accuracy, arm=f"guidance {scale}", extractor="embedded", **facts),
        Metric(
            name="coverage", value=coverage, floor=0.9, arm=f"guidance {scale}", extractor="imagenet", n=80
        ),
    ]


def test_fidelity_stands_beside_coverage_over_guidance() -> None:
    metrics = [*guided("1", 0.5, 0.6), *guided("4", 0.8, 0.3), *guided("2.5", 0.7, 0.4)]
    (chart,) = fidelity_over_guidance(metrics)
    said = texts(chart)
    assert {"label accuracy, embedded", "coverage, imagenet", "coverage of real films"} <= set(said)
    assert fidelity_over_guidance(metrics[:2]) == [], "one scale is no curve"
    steps = [m.model_copy(update={"arm": f"20 steps, {m.arm}"}) for m in metrics]
    assert len(fidelity_over_guidance(steps)) == 1, "the runs of benchmarks/sampler_settings.py"


def test_the_page_of_a_study_begins_with_its_own_verdicts() -> None:
    curve = [point("real", 10, 0.7), point("real+100%", 10, 0.75), point("mixed_0.5", 10, 0.6)]
    curve[2] |= {"difference": -0.1, "difference_low": -0.15, "difference_high": -0.05, "p_holm": 0.01}
    settings = {"curve": curve, "chosen": [{"depth": "frozen", "size": 10, "arm": "real+100%"}]}
    gap = Metric(name="AUROC difference", arm="real+100%, 10 real films a label - real", value=0.03, n=100)
    smallest = gap.model_copy(update={"name": "AUROC difference, smallest that could have been shown"})
    held = Results(kind="benchmark", protocol="REHEARSAL on x", settings=settings, metrics=[gap, smallest])
    said = [(v.level, v.text) for v in verdicts(held)]
    assert [level for level, _ in said] == ["open", "good", "bad", "open"]
    assert said[0][1].startswith("REHEARSAL") and "chosen on validation, real+100%: +0.030" in said[1][1]
    assert "mixed_0.5: -0.100 AUROC (-0.150 to -0.050)" in said[2][1]
    assert "no difference shown for real+100%; this design could have shown 0.080" in said[3][1]
    assert [s.title for s in sections(held.metrics)] == [
        "Difference from real films alone",
        "What could have been shown",
    ]
    assert parts(held)[0].title == "Learning curves"


def test_a_certificate_and_gates_stand_on_the_page() -> None:
    gates = {"present": {"candidates": 230, "accepted": 200, "acceptance": 0.8696, "rejected": {"label": 30}}}
    certificates = [{"finding": FINDING, "certified": False, "against": ["embedded: no accuracy"]}]
    scores, labels = scored()
    drawn = [curves(scores, labels, finding=FINDING, arm="synthetic", extractor="embedded")]
    settings = {"gates": gates, "gated": ["present"], "certificates": certificates, "curves": drawn}
    metrics = [*guided("1", 0.5, 0.6), *guided("4", 0.8, 0.3)]
    held = Results(kind="evaluate", protocol="p", settings=settings, metrics=metrics)
    titles = [part.title for part in parts(held)]
    assert titles[0] == "Fidelity beside coverage" and titles[-1] == "Quality gates"
    assert titles.index("Ranking") == titles.index("Labels") + 1
    text = page(held)
    assert "230" in text and "label 30" in text and "0.870" in text and "precision_recall" not in text
    first = verdicts(held)[0]
    assert first.level == "open" and "not certified: embedded: no accuracy" in first.text
    certified = [{"finding": FINDING, "certified": True, "against": []}]
    good = verdicts(held.model_copy(update={"settings": settings | {"certificates": certified}}))[0]
    assert good.level == "good" and "certified as a gated set" in good.text


def test_rows_are_named_by_what_tells_them_apart() -> None:
    metrics = [m for m in guided("1", 0.5, 0.6) + guided("4", 0.8, 0.3) if m.name == "coverage"]
    assert row_names(metrics) == ["guidance 1", "guidance 4"] and row_names(metrics[:1]) == ["coverage"]
    assert number(-0.0001) == "0.000" and number(-0.01) == "-0.010"
