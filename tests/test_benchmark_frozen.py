"""Depth "frozen": the logistic regression, the extractors, the cache of features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from synthaug import imagenet
from synthaug.benchmark.arms import Portion
from synthaug.benchmark.frozen import Features, extract_all, open_extractor, run_cell
from synthaug.benchmark.study import STRONG
from synthaug.benchmark.toy import toy_material
from synthaug.detection.logistic import fit_logistic
from synthaug.errors import DetectorError, NotInstalledError
from synthaug.evaluation import features as extraction

torch.set_num_threads(1)


@pytest.mark.parametrize(("films", "width"), [(30, 8), (12, 40)])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_logistic_regression_is_scikit_learns(films: int, width: int, strength: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(films, width))
    y = (x[:, 0] + rng.normal(size=films) > 0.4).astype(int)
    theirs = LogisticRegression(C=strength, class_weight="balanced", tol=1e-9, max_iter=10000).fit(x, y)
    ours = fit_logistic(x, y, strength)
    np.testing.assert_allclose(ours[:-1], theirs.coef_[0], atol=1e-5)
    assert ours[-1] == pytest.approx(theirs.intercept_[0], abs=1e-5)


@pytest.mark.parametrize(("films", "width"), [(30, 8), (12, 40)])
def test_a_prior_is_where_weak_evidence_leaves_the_weights(films: int, width: int) -> None:
    rng = np.random.default_rng(0)
    x, prior = rng.normal(size=(films, width)), rng.normal(size=width + 1)
    y = (x[:, 0] > 0).astype(int)
    held = fit_logistic(x, y, 1e-8, prior)
    np.testing.assert_allclose(held[:-1], prior[:-1], atol=1e-5)
    # Moving the prior by w0 is the same as an offset: the gradient of the penalised loss is zero there.
    found = fit_logistic(x, y, 0.5, prior)
    margin = np.where(y == 1, 1, -1) * (x @ found[:-1] + found[-1])
    weight = films / (2 * np.where(y == 1, y.sum(), (1 - y).sum()))
    slope = x.T @ (-weight * np.where(y == 1, 1, -1) / (1 + np.exp(margin)))
    np.testing.assert_allclose(slope + (found[:-1] - prior[:-1]) / 0.5, 0, atol=1e-3)


def test_a_cell_learns_what_its_films_show_and_chooses_on_validation() -> None:
    rng = np.random.default_rng(0)
    labels = {"real": np.arange(40) % 2, "synthetic": np.arange(40) % 2}

    def draw(truth: np.ndarray, axis: int) -> np.ndarray:
        block = rng.normal(size=(len(truth), 6)).astype(np.float32)
        block[:, axis] += 3 * truth
        return block

    unseen = np.arange(60) % 2
    features = Features(
        "drawn",
        {"real": draw(labels["real"], 0), "synthetic": draw(labels["synthetic"], 1)},
        draw(unseen, 0),
        draw(unseen, 0),
    )
    every = np.arange(40)
    good = run_cell(((Portion("real", every),),), features, labels, unseen)
    poor = run_cell(((Portion("synthetic", every),),), features, labels, unseen)
    right = lambda score: ((score.judge >= score.threshold) == unseen).mean()  # noqa: E731
    assert right(good) > 0.85 > 0.7 > right(poor)
    # One real film a label is little; it only corrects what synthetic films taught where they point another way.
    staged = run_cell(((Portion("synthetic", every),), (Portion("real", every),)), features, labels, unseen)
    assert right(staged) > 0.85


def test_features_are_cached_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material = toy_material("edema", 32)
    detector, name = open_extractor("random:test_resnet", 32)
    seen: list[tuple[int, int]] = []
    first = extract_all(
        material, detector, name, tmp_path, STRONG, lambda done, total: seen.append((done, total))
    )
    assert set(first.by_source) == {"real", "synthetic", "generator", "augmented"}
    assert first.by_source["augmented"].shape == first.by_source["real"].shape
    assert seen[-1][0] == seen[-1][1] == sum(map(len, material.sides().values())) + len(material.training)
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "extract", lambda *_: pytest.fail("cached features are not computed again"))
        again = extract_all(material, detector, name, tmp_path, STRONG)
    np.testing.assert_array_equal(again.judge, first.judge)
    other = extract_all(material, *open_extractor("random:test_vit", 32), tmp_path, None)
    assert other.judge.shape[1] != first.judge.shape[1] or not np.allclose(other.judge, first.judge)


def test_the_imagenet_extractor_sees_grey_as_three_equal_colours() -> None:
    import timm

    detector, name = open_extractor("imagenet", 64)
    assert "imagenet" in name
    network = timm.create_model(imagenet.ARCH, pretrained=False)
    network.load_state_dict(imagenet.state_dict())
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), dtype=np.uint8))
    with torch.no_grad():
        colours = (films.float() / 255 - 0.5).div(0.5).expand(-1, 3, -1, -1)
        expected = network.eval().forward_head(network.forward_features(colours), pre_logits=True)
        torch.testing.assert_close(detector.features(films), expected, atol=1e-4, rtol=1e-4)


def test_an_extractor_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(imagenet, "available", lambda: False)
    with pytest.raises(NotInstalledError, match="--extractor embedded"):
        open_extractor("imagenet", 64)
    with pytest.raises(DetectorError, match=r"config\.json: not found"):
        open_extractor(str(tmp_path), 64)
