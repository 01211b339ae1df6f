"""The utility study: arms, resumable cells, paired figures, and a demonstration that says it is one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from synthaug.benchmark.arms import build_arms, join, mix, one_finding, real_parts
from synthaug.benchmark.study import DEMONSTRATION, StudyRecipe, conclude, run_study, verdict
from synthaug.benchmark.toy import toy_films, toy_parts
from synthaug.datasets import RealRadiographs
from synthaug.detection.films import Films
from synthaug.errors import DataError
from synthaug.evaluation.results import Results

torch.set_num_threads(1)
TINY = DEMONSTRATION.model_copy(
    update={
        "replicates": 200,
        "train": DEMONSTRATION.train.model_copy(
            update={"arch": "test_resnet", "image_size": 32, "steps": 4, "validate_every": 2}
        ),
    }
)


def test_the_demonstration_says_what_it_is_and_resumes_cell_by_cell(tmp_path: Path) -> None:
    records = list(run_study(out=tmp_path, recipe=TINY))
    assert {(r.arm, r.seed) for r in records} == {
        (a, s) for a in ("real", "synthetic", "mixed") for s in (0, 1)
    }
    assert len(records) == 6 * 4 and all(r.record is not None for r in records)
    results = Results.read(tmp_path)
    assert results.kind == "benchmark" and "no evidence" in results.protocol
    first = (tmp_path / "results.json").read_bytes()
    (tmp_path / "cells" / "mixed-1.json").unlink()
    again = list(run_study(out=tmp_path, recipe=TINY))
    assert {(r.arm, r.seed) for r in again if r.record is not None} == {("mixed", 1)}
    assert (tmp_path / "results.json").read_bytes() == first
    assert "no evidence" in (tmp_path / "results.md").read_text()


def test_arms_start_from_the_same_weights_and_take_the_same_steps(tmp_path: Path) -> None:
    list(run_study(out=tmp_path, recipe=TINY.model_copy(update={"seeds": (0,)})))
    facts = [json.loads(p.read_text()) for p in sorted((tmp_path / "cells").glob("*/config.json"))]
    assert len(facts) == 3
    recipes = [f["training"]["recipe"] for f in facts]
    assert recipes[0] == recipes[1] == recipes[2] and recipes[0]["seed"] == 0
    assert len({f["training"]["validation"]["films"] for f in facts}) == 1


def test_conclude_pairs_arms_and_names_the_smallest_effect() -> None:
    parts, synthetic = toy_parts("pleural_effusion", 16)
    study = build_arms(parts, synthetic, None, "demonstration")
    labels = study.test.labels[:, 0]
    rng = np.random.default_rng(0)
    good, poor = labels + rng.normal(0, 0.3, (2, len(labels))), rng.normal(0, 1, (2, len(labels)))
    scores = {"real": poor, "synthetic": poor, "mixed": good}
    cells = {(a, s): {"threshold": 0.5, "scores": scores[a][s].tolist()} for a in scores for s in (0, 1)}
    results = conclude(study, TINY, cells)
    gain = results.find("AUROC difference", arm="mixed - real")
    assert gain.value is not None and gain.low is not None and gain.low > 0.2
    same = results.find("AUROC difference", arm="synthetic - real")
    assert same.value == same.low == same.high == 0
    limit = results.find("AUROC difference, smallest that could have been shown", arm="mixed - real")
    assert limit.value is not None and 0 < limit.value < gain.value
    said = verdict(results)
    assert "mixed - real: a gain" in said and "synthetic - real: no difference shown" in said
    assert results.settings["test"] == {"present": 60, "absent": 60, "patients": 120}


def test_mixed_holds_the_fraction_asked_for() -> None:
    real, synthetic = toy_films(30, 16, "edema", 0), toy_films(40, 16, "edema", 1, synthetic=True)
    assert len(mix(real, synthetic, None)) == 70
    half = mix(real, synthetic, 0.5)
    assert len(half) == 60 and sum(k in synthetic.keys for k in half.keys) == 30
    assert half.keys == mix(real, synthetic, 0.5).keys
    with pytest.raises(DataError, match="needs 120 synthetic films, found 40"):
        mix(real, synthetic, 0.8)


def test_an_arm_that_cannot_be_is_given_a_reason() -> None:
    parts, _ = toy_parts("edema", 16)
    study = build_arms(parts, None, None, "transfer")
    assert set(study.arms) == {"real"} and set(study.reasons) == {"synthetic", "mixed", "control"}
    with_generator = build_arms({**parts, "generator": toy_films(10, 16, "edema", 5)}, None, None, "transfer")
    assert len(with_generator.arms["control"]) == len(parts["train"]) + 10
    with pytest.raises(DataError, match="test films: 0 show edema"):
        build_arms({**parts, "test": parts["test"].subset([0, 2])}, None, None, "closed")


def test_only_films_that_answer_the_question_are_used() -> None:
    labels = np.array([[1, 0], [0, 1], [0, 0], [np.nan, np.nan]], np.float32)
    films = Films(
        np.zeros((4, 1, 8, 8), np.uint8), labels, ("no_finding", "edema"), tuple("abcd"), tuple("wxyz")
    )
    kept = one_finding(films, "edema")
    assert kept.keys == ("w", "x") and kept.labels.tolist() == [[0.0], [1.0]]
    assert join(kept, kept).keys == ("w", "x", "w", "x")


def test_a_folder_the_split_does_not_know_is_split_by_patient(tiny_nih: Path) -> None:
    parts = real_parts(RealRadiographs(tiny_nih), 32, "pleural_effusion", "crop")
    assert set(parts) == {"train", "validation", "test"}
    patients = [set(p.patients) for p in parts.values()]
    assert not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]


def test_the_first_day_split_gives_the_parts(films: Path) -> None:
    real = RealRadiographs(films / "nih-sample").subset(range(0, 3347, 12))
    parts = real_parts(real, 16, "pleural_effusion", "crop")
    assert set(parts) == {"train", "validation", "test", "generator"}


def test_utility_needs_real_films(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--real"):
        run_study(synthetic=toy_films(4, 16, "edema", 0), out=tmp_path)
    with pytest.raises(DataError, match="demonstration"):
        run_study(out=tmp_path, recipe=StudyRecipe())
