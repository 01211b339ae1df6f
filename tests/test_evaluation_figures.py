"""Results files, spectra, nearest films, label fidelity: closed forms and planted cases."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection.detector import Detector, DetectorConfig
from synthaug.detection.predict import predict
from synthaug.errors import DataError, UnknownNameError
from synthaug.evaluation.evaluate import evaluate
from synthaug.evaluation.intervals import wilson
from synthaug.evaluation.label_fidelity import (
    Scored,
    balanced,
    fidelity_metrics,
    label_fidelity,
    noise_clusters,
)
from synthaug.evaluation.nearest import nearest_films, nearest_metrics, pixel_features
from synthaug.evaluation.results import Metric, Results, missing, table
from synthaug.evaluation.spectrum import band_ratios, power, spectrum_metrics


class Reader(torch.nn.Module):
    """Logits by the share of bright pixels in the lower lungs of the drawn films: no training needed."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        base = images[..., height // 2 : 7 * height // 10, :]
        sides = torch.stack(
            [base[..., width // 5 : 2 * width // 5], base[..., 3 * width // 5 : 4 * width // 5]]
        )
        bright = sides.mean((2, 3, 4)).max(0).values
        return torch.stack([-bright, bright], 1)


@pytest.fixture
def reader(tiny_radiographs: Callable[..., tuple[np.ndarray, list]]) -> Detector:
    config = DetectorConfig(arch="drawn", findings=("no_finding", "pleural_effusion"), image_size=64)
    detector = Detector(config, Reader()).eval()
    detector.register_buffer("somewhere", torch.zeros(1))
    detector.somewhere = torch.nn.Parameter(torch.zeros(1))  # type: ignore[assignment]
    images, labels = tiny_radiographs(60, seed=3)
    logit = detector(torch.from_numpy(images))[:, 1].detach().numpy()
    present = np.array([row["pleural_effusion"] == 1 for row in labels])
    cut = (logit[present].mean() + logit[~present].mean()) / 2
    threshold = {"pleural_effusion": float(1 / (1 + np.exp(-cut)))}
    detector.config = config.model_copy(update={"thresholds": threshold})
    return detector


def noise(count: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 30, (count, 1, 256, 256))
    return (128 + scale * values).clip(0, 255).astype(np.uint8)


def test_results_keep_the_contract(tmp_path: Path) -> None:
    metrics = [
        Metric(name="AUROC", arm="real", value=0.5, low=0.4, high=float("nan"), n=3),
        missing("FID", "no extractor"),
    ]
    results = Results(kind="evaluate", protocol="p", settings={"a": 1}, metrics=metrics)
    raw = json.loads(results.write(tmp_path).read_text())
    assert set(raw) == {"schema", "kind", "protocol", "settings", "metrics"}
    fields = {
        "name",
        "finding",
        "subgroup",
        "arm",
        "value",
        "low",
        "high",
        "n",
        "extractor",
        "resize",
        "floor",
        "reason",
        "protocol",
        "note",
    }
    assert set(raw["metrics"][0]) == fields and raw["metrics"][0]["high"] is None
    assert raw["metrics"][1]["value"] is None and raw["metrics"][1]["reason"] == "no extractor"
    assert Results.read(tmp_path) == results
    assert "no extractor" in table(metrics) and "0.500" in table(metrics)
    with pytest.raises(DataError, match="found 0"):
        results.find("KID")


def test_a_value_that_is_missing_needs_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no reason"):
        Metric(name="AUROC", value=float("nan"))
    with pytest.raises(DataError, match="not found"):
        Results.read(tmp_path)
    (tmp_path / "results.json").write_text('{"schema": "other"}')
    with pytest.raises(DataError, match="schema"):
        Results.read(tmp_path)


def test_half_the_contrast_is_a_quarter_of_the_power() -> None:
    ratios = band_ratios(power(noise(8, 0.5)), power(noise(8, 1.0)))
    for band in ("1-8", "8-32", "32-64", "64-100"):
        assert ratios[band] == pytest.approx(0.25, rel=0.02)
    assert ratios["grid"] == pytest.approx(1, rel=0.05)


def test_a_pattern_at_the_pitch_of_the_latents_shows_in_grid_only() -> None:
    wave = 15 * np.sin(2 * np.pi * 32 * np.arange(256) / 256)
    films = noise(8)
    patterned = (films + wave[None, None, :, None]).clip(0, 255).astype(np.uint8)
    ratios = band_ratios(power(patterned), power(films))
    assert ratios["grid"] > 5 and ratios["1-8"] == pytest.approx(1, abs=0.1)


def test_views_are_compared_apart_and_thin_ones_are_named() -> None:
    films = noise(40)
    metrics = spectrum_metrics({"PA": films[:20], "AP": films[:3]}, {"PA": films, "AP": films}, "synthetic")
    by_view = {view: [m for m in metrics if m.subgroup == view] for view in ("PA", "AP")}
    assert len(by_view["PA"]) == len(by_view["AP"]) == 5
    assert all(m.value is not None and m.floor is not None for m in by_view["PA"])
    assert all(m.value is None and "3 synthetic" in (m.reason or "") for m in by_view["AP"])


def test_a_planted_copy_is_the_first_suspect() -> None:
    training, unseen, synthetic = (
        noise(12, seed=1)[..., ::2, ::2],
        noise(12, seed=2)[..., ::2, ::2],
        noise(6, seed=3)[..., ::2, ::2],
    )
    synthetic[4] = training[7] // 2 + 20
    found = nearest_films(synthetic, training, unseen)
    assert found.suspects()[0] == 4 and found.synthetic_index[4] == 7
    assert found.synthetic[4] < 0.1 < found.real.min(), (
        "pixel features must see through contrast and brightness"
    )
    share = next(m for m in nearest_metrics(found) if m.name.startswith("nearer"))
    nearer = found.synthetic < np.quantile(found.real, 0.01)
    assert share.value == pytest.approx(nearer.mean(), abs=1e-6) and nearer[4] and share.floor == 0.01
    np.testing.assert_allclose(np.linalg.norm(pixel_features(training), axis=1), 1, rtol=1e-5)


def test_label_fidelity_sees_labels_that_are_kept_and_labels_that_are_not(
    reader: Detector, tiny_shards: Path
) -> None:
    data = SyntheticRadiographs(tiny_shards)
    metrics = {m.name: m for m in label_fidelity(reader, [data], "pleural_effusion")}
    present = data.column("pleural_effusion") == 1
    scores = predict(reader, data)[:, 1]
    correct = int(((scores >= reader.config.threshold("pleural_effusion")) == present).sum())
    found, area = metrics["label accuracy"], metrics["label AUROC"]
    assert (found.value, found.n) == (pytest.approx(correct / 24), 24) and correct > 18
    assert (found.low, found.high) == pytest.approx(wilson(correct, 24), abs=1e-6)
    assert area.value == pytest.approx(roc_auc_score(present, scores), abs=1e-6)
    swapped = Scored(scores, 1.0 - present, tuple(data.keys))
    wrong = fidelity_metrics(swapped, "pleural_effusion", reader.config.threshold("pleural_effusion"), "x")
    assert wrong[0].value == pytest.approx(1 - found.value, abs=1e-6)
    assert wrong[3].value == pytest.approx(1 - area.value, abs=1e-6)
    control = metrics["shuffled label accuracy"]
    assert control.low is not None and control.high is not None and control.low < 0.5 < control.high
    with pytest.raises(UnknownNameError):
        label_fidelity(reader, [data], "edema")


def test_films_of_one_noise_are_one_cluster(tiny_shards: Path) -> None:
    data = SyntheticRadiographs(tiny_shards)
    clusters = noise_clusters(data)
    assert len(set(clusters)) == 24 and clusters == noise_clusters(SyntheticRadiographs(tiny_shards))
    scored = Scored(np.tile([0.9, 0.9, 0.4], 2), np.repeat([1.0, 0.0], 3), ("a", "b", "c") * 2)
    twins = fidelity_metrics(scored, "edema", 0.5, "x")[0]
    apart = fidelity_metrics(Scored(scored.scores, scored.labels, tuple("abcdef")), "edema", 0.5, "x")[0]
    assert twins.value == apart.value == 0.5 and twins.high <= apart.high


def test_balance_takes_the_first_of_each() -> None:
    present = np.array([True, False, True, False, True])
    np.testing.assert_array_equal(balanced(present, ~present), [0, 2, 1, 3])


def test_without_absent_films_there_is_a_reason_and_no_figure(reader: Detector, tiny_shards: Path) -> None:
    data = SyntheticRadiographs(tiny_shards)
    metrics = label_fidelity(reader, [data.subset(range(1, 24, 2))], "pleural_effusion")
    assert all(m.value is None and "found 12 and 0" in (m.reason or "") for m in metrics)


def test_evaluate_writes_figures_beside_the_ceiling(
    reader: Detector, tiny_shards: Path, tiny_nih: Path, tmp_path: Path
) -> None:
    synthetic, real = SyntheticRadiographs(tiny_shards), RealRadiographs(tiny_nih)
    results = evaluate([synthetic], real, reader, out=tmp_path / "report", part="all")
    first = (tmp_path / "report" / "results.json").read_bytes()
    assert results.settings["findings"] == ["pleural_effusion"] and results.settings["real_part"] == "all"
    ceiling = results.find("label accuracy", arm="real", finding="pleural_effusion")
    assert ceiling.value is not None and ceiling.n == 22
    assert results.find("power 8-32", subgroup="PA").reason
    evaluate([synthetic], real, reader, out=tmp_path / "report", part="all")
    assert (tmp_path / "report" / "results.json").read_bytes() == first
    alone = evaluate([synthetic], None, reader)
    assert "no --real" in (alone.find("label accuracy", arm="real").reason or "")
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate([synthetic.subset(range(0, 24, 2))], None, reader)
