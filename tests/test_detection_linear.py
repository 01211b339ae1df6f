"""Detectors with a linear head: pooled maps, the fit beside scikit-learn's, the penalty, the folder."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from synthaug import cli, imagenet
from synthaug.benchmark.toy import toy_films
from synthaug.detection import linear
from synthaug.detection.calibration import auroc_by_finding
from synthaug.detection.depths import MultiDepth
from synthaug.detection.detector import DetectorConfig, build_detector, load_detector
from synthaug.detection.films import Films
from synthaug.detection.finishing import measured, told
from synthaug.detection.linear import choose_strength
from synthaug.detection.logistic import fit_logistic
from synthaug.detection.predict import extract, logits, predict
from synthaug.detection.recipe import TrainRecipe
from synthaug.detection.train import train_detector
from synthaug.errors import DetectorError
from synthaug.evaluation.intervals import auroc_interval as estimates

torch.set_num_threads(1)
FINDING = "pleural_effusion"
RECIPE = TrainRecipe(
    arch="resnet10t", head="linear", image_size=64, normalisation="fixed", strengths=(1e-3, 1e-1)
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("linear")
    unseen = toy_films(40, 64, FINDING, 1)
    list(train_detector(toy_films(60, 64, FINDING, 0), recipe=RECIPE, out=out, validation=unseen))
    return out


def test_maps_of_every_depth_are_pooled_by_quarter_and_by_spread() -> None:
    class Maps(torch.nn.Module):
        class feature_info:
            reduction = staticmethod(lambda: [2, 4, 8])
            channels = staticmethod(lambda: [7, 1, 2])

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images.expand(-1, 7, -1, -1), images, torch.cat([images, 2 * images], 1)]

    network = MultiDepth(Maps(), findings=3)
    images = torch.rand(2, 1, 4, 4)
    pooled = network.pooled(images)
    quarters = images.reshape(2, 1, 2, 2, 2, 2).mean((3, 5)).flatten(1)
    spread = images.std((2, 3), correction=0)
    expected = torch.cat([quarters, spread, quarters, 2 * quarters, spread, 2 * spread], 1)
    torch.testing.assert_close(pooled, expected)
    network.mean += 1
    network.deviation *= 2
    torch.testing.assert_close(network.forward_features(images), (expected - 1) / 2)
    assert network(images).shape == (2, 3)


def test_a_linear_head_finds_what_it_was_shown_and_opens_like_any_detector(fitted: Path) -> None:
    detector, unseen = load_detector(fitted), toy_films(80, 64, FINDING, 2)
    assert detector.config.head == "linear"
    assert {p.name for p in fitted.iterdir() if p.is_file()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    scores = predict(detector, unseen)
    assert auroc_by_finding(scores, unseen.labels, unseen.findings)[FINDING] > 0.8
    assert 0 < detector.config.threshold(FINDING) < 1
    facts = json.loads((fitted / "config.json").read_text())["training"]
    assert facts["strengths"][FINDING] in RECIPE.strengths and facts["validation"]["films"] == 40
    assert extract(detector, unseen).shape == (80, len(detector.network.mean))
    torch.testing.assert_close(
        torch.from_numpy(predict(detector, unseen.images, 7)), torch.from_numpy(scores)
    )


def test_what_is_measured_has_its_interval_and_stands_on_the_card(fitted: Path) -> None:
    detector, unseen = load_detector(fitted), toy_films(40, 64, FINDING, 1)
    held = json.loads((fitted / "config.json").read_text())["training"]["validation"]
    again = measured(logits(detector, unseen), unseen)
    assert held["auroc"] == {FINDING: pytest.approx(again["auroc"][FINDING], abs=0.01)}
    assert held["present_absent"] == {FINDING: [20, 20]} and held["patients"] == 40
    low, high = held["auroc_interval"][FINDING]
    assert low <= held["auroc"][FINDING] <= high
    ((name, value, span, _),) = told(held)
    text = (fitted / "README.md").read_text()
    assert (
        f"{value} ({span}), 20 present, 20 absent" in text and "pleural effusion" in text and name == FINDING
    )


def test_films_of_unknown_label_are_left_out_and_patients_are_resampled_whole() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([[1.0], [0.0], [np.nan]], [30, 30, 20], 0).astype(np.float32)
    scores = rng.normal(size=(80, 1)) + np.nan_to_num(labels)
    blank = np.zeros((80, 1, 8, 8), np.uint8)
    names = tuple(f"p{i // 3}" for i in range(80))
    found = measured(scores, Films(blank, labels, (FINDING,), names, names))
    expected = estimates(scores[:60, 0], labels[:60, 0], names[:60])
    assert found["auroc_interval"][FINDING] == [round(expected.low, 4), round(expected.high, 4)]
    assert found["present_absent"][FINDING] == [30, 30] and found["auroc"][FINDING] == round(
        expected.value, 4
    )
    alone = measured(scores, Films(blank, labels, (FINDING,), ("one",) * 80, names))
    assert alone["auroc_interval"][FINDING] == [None, None] and told(alone)[0][2] == ""


def test_train_tells_the_interval(tmp_path: Path, tiny_nih: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--set", "start=random", "--set", "image_size=32", "--device", "cpu"]
    given = [
        "train",
        "--recipe",
        "linear_detector",
        "--data",
        str(tiny_nih),
        "--out",
        str(tmp_path / "det"),
        *flags,
    ]
    assert cli.main(given) == 0
    said = capsys.readouterr().out
    assert "95 %, patients resampled" in said and re.search(
        r"cardiomegaly +\d\.\d{3} .* \d+ present, \d+ absent", said
    )


def test_the_head_is_scikit_learns_with_its_intercept_at_the_frequency_of_the_finding(fitted: Path) -> None:
    films = toy_films(60, 64, FINDING, 0)
    chosen = films.subset([i for i in range(60) if i % 2 or i % 6 == 0])
    detector = load_detector(fitted)
    list(
        train_detector(
            chosen,
            recipe=RECIPE.model_copy(update={"strengths": (0.01,)}),
            out=fitted / "two",
            validation=toy_films(40, 64, FINDING, 1),
        )
    )
    second = load_detector(fitted / "two")
    pooled = second.network.pooled(second.normalise(torch.from_numpy(chosen.images))).detach().numpy()
    x = (pooled - pooled.mean(0)) / (pooled.std(0) + 1e-6)
    y = chosen.labels[:, 0]
    theirs = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-9, max_iter=10000).fit(x, y)
    expected = theirs.decision_function(x) + np.log(y.sum() / (1 - y).sum())
    np.testing.assert_allclose(logits(second, chosen)[:, 0], expected, atol=0.02)
    assert not torch.equal(second.network.head.weight, detector.network.head.weight)


def test_the_penalty_is_chosen_over_folds_that_share_no_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding shows in one quiet feature, which a strong penalty leaves to the louder ones."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 4)
    labels = (patients % 2).astype(float)
    x = np.column_stack([patients, 0.1 * labels + 0.03 * rng.normal(size=160), rng.normal(size=(160, 5))])
    names, seen = [str(p) for p in patients], []

    def spy(features: np.ndarray, *rest: object) -> np.ndarray:
        seen.append(features[:, 0])
        return fit_logistic(features[:, 1:], *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(linear, "fit_logistic", lambda *given: np.insert(spy(*given), 0, 0.0))
    assert choose_strength(x, labels, names, (1e3, 1e-3)) == 1e3
    assert len(seen) == 2 * linear.FOLDS
    for block in seen:
        assert set(np.unique(block, return_counts=True)[1]) == {4}, "a patient on both sides of a fold"
    assert choose_strength(x[:8], labels[:8], names[:8], (1.0, 10.0, 0.1)) == 1.0, "one patient a label"


def test_a_finding_without_both_labels_keeps_a_silent_head(tmp_path: Path) -> None:
    films, unseen = toy_films(40, 64, FINDING, 0), toy_films(40, 64, FINDING, 1)

    def with_mass(held: Films) -> Films:
        labels = np.concatenate([held.labels, np.full((40, 1), np.nan, np.float32)], 1)
        return replace(held, labels=labels, findings=(FINDING, "mass"))

    recipe = RECIPE.model_copy(update={"findings": (FINDING, "mass")})
    records = list(
        train_detector(with_mass(films), recipe=recipe, out=tmp_path, validation=with_mass(unseen))
    )
    assert [r.step for r in records] == list(range(1, records[0].steps + 1)) and records[-1].validation
    np.testing.assert_allclose(predict(load_detector(tmp_path), unseen)[:, 1], 0.5)


def test_a_linear_head_does_not_begin_from_another(fitted: Path, tmp_path: Path) -> None:
    films = toy_films(40, 64, FINDING, 0)
    with pytest.raises(DetectorError, match="linear head"):
        list(train_detector(films, recipe=RECIPE, out=tmp_path, begin_from=fitted))


def test_the_imagenet_weights_are_read_at_every_depth() -> None:
    config = DetectorConfig(arch=imagenet.ARCH, head="linear", findings=(FINDING,), image_size=64)
    detector = build_detector(config, "imagenet", seed=0)
    weights, own = imagenet.state_dict(), detector.network.state_dict()
    assert torch.equal(own["backbone.conv_stem.weight"][:, 0], weights["conv_stem.weight"].sum(1))
    assert torch.equal(own["backbone.blocks.5.2.conv_pwl.weight"], weights["blocks.5.2.conv_pwl.weight"])
    assert detector.config.start.startswith("imagenet") and len(detector.network.kept) == 4
