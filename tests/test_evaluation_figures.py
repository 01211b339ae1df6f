"""Results files, spectra, nearest films, label fidelity: closed forms and planted cases."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection.detector import Detector, DetectorConfig
from synthaug.detection.predict import predict
from synthaug.errors import DataError, UnknownNameError
from synthaug.evaluation.evaluate import Options, evaluate
from synthaug.evaluation.features import Extractor, callable_extractor
from synthaug.evaluation.intervals import wilson
from synthaug.evaluation.label_fidelity import (
    Scored,
    balanced,
    fidelity_metrics,
    label_fidelity,
    noise_clusters,
)
from synthaug.evaluation.results import Metric, Results, missing, table
from synthaug.evaluation.spectrum import band_ratios, power, spectrum_metrics
from synthaug.images import encode, resize
from synthaug.shards import write_manifest, write_shard


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


@pytest.fixture
def bands() -> Extractor:
    """Features without a network: means of a grid of 8 x 8."""
    return callable_extractor(
        lambda block: block.reshape(len(block), 8, 8, 8, 8).mean((2, 4)).reshape(len(block), -1),
        "bands",
        64,
        digest="b",
    )


def test_evaluate_writes_figures_beside_the_ceiling(
    reader: Detector, bands: Extractor, tiny_shards: Path, tiny_nih: Path, tmp_path: Path
) -> None:
    synthetic, real = SyntheticRadiographs(tiny_shards), RealRadiographs(tiny_nih)
    options = Options(extractors=[bands], cache=tmp_path / "cache")
    results = evaluate([synthetic], real, reader, out=tmp_path / "report", part="all", options=options)
    first = (tmp_path / "report" / "results.json").read_bytes()
    assert results.settings["findings"] == ["pleural_effusion"] and results.settings["real_part"] == "all"
    ceiling = results.find("label accuracy", arm="real", finding="pleural_effusion", subgroup=None)
    assert ceiling.value is not None and ceiling.n == 22
    assert results.find("power 8-32", subgroup="PA").reason
    assert "50 synthetic and 100 real ones are needed" in (results.find("FID", finding=None).reason or "")
    assert "no --generator-data" in (results.find("membership inference AUROC").reason or "")
    assert (tmp_path / "report" / "pictures" / "synthetic.png").exists()
    assert not (tmp_path / "report" / "pictures" / "real.png").exists(), "real films only where asked for"
    evaluate([synthetic], real, reader, out=tmp_path / "report", part="all", options=options)
    assert (tmp_path / "report" / "results.json").read_bytes() == first
    turned = [synthetic.subset(range(12, 24)), synthetic.subset(range(12))]
    again = evaluate(turned, real, reader, part="all", options=options)
    for one, other in zip(results.metrics, again.metrics, strict=True):
        assert (one.key, one.n, one.protocol) == (other.key, other.n, other.protocol)
        if not one.name.startswith("shuffled"):  # which film gets which label depends on the order
            assert (one.value, one.floor) == pytest.approx((other.value, other.floor), abs=1e-5)
    fewer = evaluate([synthetic], real.subset(range(20)), reader, part="all", options=options)
    assert fewer.protocol != results.protocol == again.protocol, "other real films, other protocol"
    alone = evaluate([synthetic], None, reader, options=options)
    assert "no --real" in (alone.find("label accuracy", arm="real", subgroup=None).reason or "")
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate([synthetic.subset(range(0, 24, 2))], None, reader, options=options)
    with pytest.raises(UnknownNameError, match="edema"):
        evaluate([synthetic], real, reader, ["edema"], part="all", options=options)


def test_what_two_sides_do_not_share_has_a_reason(
    reader: Detector, bands: Extractor, tiny_shards: Path, tiny_class_folders: Path
) -> None:
    config = reader.config.model_copy(update={"findings": ("no_finding", "edema"), "thresholds": {}})
    other = Detector(config, Reader()).eval()
    drawn = SyntheticRadiographs(tiny_shards, findings=["no_finding", "pleural_effusion", "mass"])
    real = RealRadiographs(tiny_class_folders).with_findings(no_finding=1)
    wanted = ["pleural_effusion", "mass"]
    with pytest.raises(UnknownNameError, match="mass"):
        evaluate([drawn], real, [reader, other], wanted, part="all", options=Options(extractors=[bands]))
    found = evaluate(
        [drawn], real, [reader, other], wanted[:1], part="all", options=Options(extractors=[bands])
    )
    unknown = found.find("label accuracy", arm="synthetic", extractor="drawn-2", subgroup=None)
    assert "does not know it; it knows no_finding, edema" in (unknown.reason or "")
    lacking = found.find("label accuracy", arm="real", extractor="drawn", subgroup=None)
    assert "found 0 and 12" in (lacking.reason or "")
    assert "24 synthetic and 12 real films" in (found.find("KID", finding=None).reason or "")
    assert "12 synthetic and 0 real films" in (found.find("KID", finding="pleural_effusion").reason or "")


def big_nih(root: Path, patients: int, seed: int) -> Path:
    """An NIH folder of random smooth films, two a patient."""
    from conftest import NIH_HEADER

    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = [NIH_HEADER]
    for i in range(2 * patients):
        name = f"{seed}{i // 2:07d}_{i % 2:03d}.png"
        found = "Effusion" if i // 2 % 2 else "No Finding"
        rows.append(f"{name},{found},{i % 2},{seed}{i // 2},50,F,PA,64,64,0.1,0.1")
        Image.fromarray(resize(rng.integers(0, 255, (10, 10)).astype(np.uint8), 64)).save(
            root / "images" / name
        )
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    return root


def test_evaluate_finds_a_planted_copy_and_leaves_it_out(
    reader: Detector, bands: Extractor, tiny_shards: Path, tmp_path: Path
) -> None:
    unseen, training = (RealRadiographs(big_nih(tmp_path / f"nih{s}", 110, s)) for s in (7, 8))
    folder = tmp_path / "drawn"
    folder.mkdir()
    samples = []
    source = SyntheticRadiographs(tiny_shards)
    for i, record in enumerate(source.records):
        samples.append((record, encode(training.image(31) if i == 5 else source.image(i)), "png"))
    write_manifest(folder, [write_shard(folder, 0, samples)], gates={"blank": 1})
    drawn = SyntheticRadiographs(folder)
    options = Options(
        extractors=[bands],
        generator_data=[training],
        exclude=tmp_path / "clean",
        show_real=True,
        command="synthaug evaluate",
    )
    results = evaluate([drawn], unseen, reader, out=tmp_path / "report", part="all", options=options)
    listed = results.settings["audit"]["listed"]
    assert f"drawn/{drawn.keys[5]}" in listed and results.settings["gated"] == ["drawn"]
    assert results.find("highest correlation with a training film").value == pytest.approx(1, abs=1e-3)
    left = SyntheticRadiographs(tmp_path / "clean")
    assert drawn.keys[5] not in left.keys and len(left) == 24 - len(listed)
    for name in ("synthetic.png", "real.png", "nearest.png"):
        assert (tmp_path / "report" / "pictures" / name).exists()
    lines = [line.split(",") for line in (tmp_path / "report" / "nearest.csv").read_text().splitlines()]
    assert [side for side, *_ in lines[1:]] == ["synthetic"] * 24 + ["unseen real"] * len(unseen)
    assert float(lines[1 + 5][2]) == pytest.approx(1, abs=1e-3)
    with pytest.raises(DataError, match="patients are both"):
        evaluate(
            [drawn], unseen, reader, part="all", options=Options(extractors=[bands], generator_data=[unseen])
        )
    with pytest.raises(DataError, match="--exclude: nothing is audited"):
        evaluate(
            [drawn], unseen, reader, part="all", options=Options(extractors=[bands], exclude=tmp_path / "x")
        )
