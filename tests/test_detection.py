"""Detectors: the folder, the loss, the choices on validation, and training that resumes exactly."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from synthaug import imagenet
from synthaug.benchmark.toy import toy_films
from synthaug.detection import detector as detector_room
from synthaug.detection.augment import Augmentation, augment
from synthaug.detection.calibration import (
    auroc_by_finding,
    choose_thresholds,
    fit_temperature,
    youden_threshold,
)
from synthaug.detection.detector import Detector, DetectorConfig, build_detector, load_detector, uses_bf16
from synthaug.detection.films import Films, align, hold, split_films
from synthaug.detection.loss import masked_loss, sampling_weights
from synthaug.detection.predict import extract, predict
from synthaug.detection.train import TrainRecipe, learning_rate, train_detector
from synthaug.embedded import detector_facts
from synthaug.errors import DataError, DetectorError, ImageError, OutputFolderError, UnknownNameError

FINDINGS = ("no_finding", "pleural_effusion")
torch.set_num_threads(1)
STILL = Augmentation(rotation=0, scale=(1, 1), shift=0, contrast=0, brightness=0, gamma=0)
QUICK = TrainRecipe(
    arch="test_resnet", image_size=48, steps=12, batch_size=8, validate_every=6, learning_rate=3e-3, ema=0.9
)


def config(arch: str = "test_resnet", **more: object) -> DetectorConfig:
    return DetectorConfig(arch=arch, findings=FINDINGS, image_size=48, **more)


def random_images(count: int = 3, size: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, size, size), dtype=np.uint8)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_any_timm_name_takes_grey_films_and_gives_one_logit_a_finding(arch: str) -> None:
    detector = build_detector(config(arch), seed=3).eval()
    images = torch.from_numpy(random_images())
    assert detector(images).shape == (3, 2)
    assert detector.features(images).shape[0] == 3 and detector.features(images).dim() == 2
    again = build_detector(config(arch), seed=3).eval()
    assert torch.equal(detector(images), again(images)), "equal seeds must start from equal weights"
    assert not torch.equal(detector(images), build_detector(config(arch), seed=4).eval()(images))


def test_an_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="densenet121"):
        build_detector(config("densnet121"))


def test_weights_that_are_not_to_be_had_mean_a_recorded_random_start() -> None:
    with pytest.warns(UserWarning, match="random"):
        detector = build_detector(config("test_resnet"), start="imagenet", seed=0)
    assert detector.config.start.startswith("random")


def test_the_imagenet_start_sums_the_colour_filters() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = build_detector(config(imagenet.ARCH), start="imagenet", seed=0)
    weights, own = imagenet.state_dict(), detector.network.state_dict()
    assert torch.equal(own["conv_stem.weight"][:, 0], weights["conv_stem.weight"].sum(1))
    assert torch.equal(own["blocks.5.2.conv_pwl.weight"], weights["blocks.5.2.conv_pwl.weight"])
    assert detector.config.start.startswith("imagenet")


def test_a_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    detector = build_detector(config(thresholds={"pleural_effusion": 0.3}, temperature=2.0), seed=1).eval()
    detector.save(tmp_path / "det")
    assert sorted(p.name for p in (tmp_path / "det").iterdir()) == ["config.json", "model.safetensors"]
    loaded = load_detector(tmp_path / "det")
    assert loaded.config == detector.config
    assert loaded.config.threshold("pleural_effusion") == 0.3 and loaded.config.threshold("no_finding") == 0.5
    np.testing.assert_allclose(
        predict(loaded, random_images()), predict(detector, random_images()), atol=2e-3
    )
    kinds = {v.dtype for v in load_file(tmp_path / "det" / "model.safetensors").values() if v.dim() > 1}
    assert kinds == {torch.float16}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json: not found"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: not found"),
        (lambda d: torch.save({"a": torch.zeros(1)}, d / "model.safetensors"), "not readable as safetensors"),
        (lambda d: save_file({"a": torch.zeros(1)}, d / "model.safetensors"), "does not fit test_resnet"),
        (lambda d: (d / "config.json").write_text('{"arch": "test_resnet"}'), "findings"),
    ],
)
def test_a_broken_folder_names_the_file(tmp_path: Path, harm: object, said: str) -> None:
    build_detector(config(), seed=0).save(tmp_path)
    harm(tmp_path)  # type: ignore[operator]
    with pytest.raises(DetectorError, match=said):
        load_detector(tmp_path)


def test_film_normalisation_forgets_contrast_and_brightness() -> None:
    detector = build_detector(config(normalisation="film"), seed=0).eval()
    film = torch.rand(2, 1, 48, 48)
    torch.testing.assert_close(detector(film * 0.5 + 0.2), detector(film), rtol=0.05, atol=0.05)


def test_predictions_are_tempered_logits_whatever_the_batch_size() -> None:
    detector = build_detector(config(temperature=2.0), seed=0).eval()
    images = random_images(5)
    expected = torch.sigmoid(detector(torch.from_numpy(images)) / 2).detach().numpy()
    np.testing.assert_allclose(predict(detector, images, batch_size=2), expected, atol=1e-5)
    np.testing.assert_allclose(predict(detector, images[0, 0])[0], expected[0], atol=1e-5)
    assert extract(detector, images).shape[0] == 5
    with pytest.raises(ImageError, match="uint8"):
        predict(detector, images.astype(np.float32))


def test_unknown_labels_take_no_part_in_the_loss() -> None:
    scores = torch.tensor([[0.3, -1.0], [2.0, 0.5]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    ones = torch.ones(2)
    loss = masked_loss(scores, labels, ones, ones)
    known = torch.tensor([0.3, 2.0, 0.5])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(known, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert scores.grad is not None and scores.grad[0, 1] == 0 and scores.grad[1, 1] != 0


def test_balanced_sampling_draws_each_value_equally_often() -> None:
    labels = np.array([[1.0]] + [[0.0]] * 3, np.float32)
    np.testing.assert_allclose(sampling_weights(labels), [0.5, 1 / 6, 1 / 6, 1 / 6])
    rare = sampling_weights(np.array([[1.0]] + [[0.0]] * 99, np.float32))
    assert rare[0] == pytest.approx(rare[1] * 4 / (50 / 99), rel=1e-5), "four times the mean, and no more"
    with pytest.raises(DataError, match="known label"):
        sampling_weights(np.full((3, 1), np.nan, np.float32))


def test_augmentation_can_be_off_is_seeded_and_never_swaps_sides() -> None:
    images = torch.from_numpy(random_images(4))
    off = augment(images, STILL, torch.Generator().manual_seed(0))
    torch.testing.assert_close(off, images.float() / 255, atol=1e-5, rtol=0)
    marked = torch.zeros(64, 1, 48, 48, dtype=torch.uint8)
    marked[:, :, 16:32, 4:14] = 255
    moved = augment(marked, Augmentation(), torch.Generator().manual_seed(0))
    assert torch.equal(moved, augment(marked, Augmentation(), torch.Generator().manual_seed(0)))
    assert (moved[..., :24].sum((1, 2, 3)) > moved[..., 24:].sum((1, 2, 3))).all()
    assert moved.std(0).max() > 0.1, "films of a batch must move apart"


def test_thresholds_are_youdens() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60).astype(float)
    scores = np.round(rng.random(60) + 0.3 * labels, 2)

    def gain(cut: float) -> float:
        called = scores >= cut
        return float(called[labels == 1].mean() - called[labels == 0].mean())

    best = max(gain(c) for c in np.append(scores, 9.0))
    assert gain(youden_threshold(scores, labels)) == pytest.approx(best)


def test_thresholds_against_no_finding_leave_other_findings_out() -> None:
    names = ("no_finding", "pleural_effusion")
    labels = np.array([[1, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 1], [0, 1]], np.float32)
    scores = np.array([[0, 0.1], [0, 0.2], [0, 0.6], [0, 0.6], [0, 0.7], [0, 0.5], [0, 0.8]], np.float32)
    against = choose_thresholds(scores, labels, names, "no_finding")["pleural_effusion"]
    assert against == pytest.approx(0.35)
    assert choose_thresholds(scores, labels, names, "known")["pleural_effusion"] != against
    assert auroc_by_finding(scores[:, :1], labels[:, :1] * 0, names[:1]) == {}


def test_the_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, (20000, 1))
    labels = (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    assert fit_temperature(3 * logit, labels) == pytest.approx(3, rel=0.05)


def test_films_of_several_sources_share_columns_and_no_finding_speaks_for_all() -> None:
    have = align(np.array([[1.0], [0.0]], np.float32), ["no_finding"], ["no_finding", "edema"])
    np.testing.assert_array_equal(have, [[1, 0], [0, np.nan]])
    one, two = toy_films(4, 32, "edema", 0), toy_films(6, 32, "pleural_effusion", 1)
    films = hold([one, two], 24)
    assert films.findings == ("edema", "pleural_effusion") and films.images.shape == (10, 1, 24, 24)
    assert np.isnan(films.column("edema")[4:]).all() and np.isnan(films.column("mass")).all()
    with pytest.raises(DataError, match="no film"):
        hold(one.subset([]), 24)


def test_patients_stay_on_one_side_of_a_split() -> None:
    films = toy_films(40, 16, "edema", 0)
    doubled = Films(
        films.images, films.labels, films.findings, tuple(str(i // 4) for i in range(40)), films.keys
    )
    train, held_out = split_films(doubled, 0.3, seed=1)
    assert sorted([*train, *held_out]) == list(range(40)) and len(held_out) == 12
    assert not {doubled.patients[i] for i in train} & {doubled.patients[i] for i in held_out}
    with pytest.raises(DataError, match="both the training and the validation"):
        list(train_detector(doubled, recipe=QUICK, validation=doubled.subset([0, 1])))


def test_the_learning_rate_warms_up_and_ends_at_nothing() -> None:
    recipe = TrainRecipe(steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(step, recipe) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 == rates[9] and rates[100] == pytest.approx(0)


def test_training_learns_and_chooses_on_validation(tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"steps": 30, "validate_every": 10, "batch_size": 16})
    films, unseen = toy_films(64, 48, "pleural_effusion", 0), toy_films(60, 48, "pleural_effusion", 1)
    records = list(train_detector(films, recipe=recipe, out=tmp_path))
    assert [r.step for r in records] == list(range(1, 31)) and any(r.best for r in records)
    assert [r.step for r in records if r.validation] == [10, 20, 30]
    detector = load_detector(tmp_path)
    assert (
        auroc_by_finding(predict(detector, unseen), unseen.labels, unseen.findings)["pleural_effusion"] > 0.8
    )
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["findings"] == ["pleural_effusion"] and 0 < facts["thresholds"]["pleural_effusion"] < 1
    assert facts["training"]["recipe"]["steps"] == 30 and not (tmp_path / "training.safetensors").exists()


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    films = toy_films(40, 48, "pleural_effusion", 0)

    def run(out: Path, stop: int | None) -> None:
        for record in train_detector(films, recipe=QUICK, out=out, save_every=5):
            if record.step == stop:
                return

    run(tmp_path / "whole", None)
    run(tmp_path / "cut", 7)
    with pytest.raises(OutputFolderError, match="another recipe"):
        list(train_detector(films, recipe=QUICK.model_copy(update={"seed": 5}), out=tmp_path / "cut"))
    run(tmp_path / "cut", None)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_training_may_begin_from_another_detector(tmp_path: Path) -> None:
    films = toy_films(40, 48, "pleural_effusion", 0)
    list(train_detector(films, recipe=QUICK, out=tmp_path / "first"))
    still = QUICK.model_copy(update={"steps": 1, "learning_rate": 1e-12, "ema": 0.0})
    list(train_detector(films, recipe=still, out=tmp_path / "second", begin_from=tmp_path / "first"))
    first, second = load_detector(tmp_path / "first"), load_detector(tmp_path / "second")
    assert second.config.start.startswith("detector ")
    for name, weights in first.network.named_parameters():
        torch.testing.assert_close(second.network.state_dict()[name], weights, atol=2e-3, rtol=0)
    other = still.model_copy(update={"arch": "test_vit"})
    with pytest.raises(DetectorError, match="expected test_vit"):
        list(train_detector(films, recipe=other, out=tmp_path / "third", begin_from=tmp_path / "first"))


TWO = """
import json, os, pathlib, sys, torch
torch.set_num_threads(1)
from synthaug.benchmark.toy import toy_films
from synthaug.detection.train import TrainRecipe, train_detector
recipe = TrainRecipe(arch="test_vit", image_size=48, steps=6, batch_size=7, validate_every=3, learning_rate=3e-3, ema=0.9)
films = toy_films(40, 48, "pleural_effusion", 0)
losses = [r.loss for r in train_detector(films, recipe=recipe, out=sys.argv[1], device="cpu")]
if os.environ.get("RANK", "0") == "0":
    pathlib.Path(sys.argv[1], "losses.json").write_text(json.dumps(losses))
torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
"""


@pytest.mark.long
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """A network without batch statistics, seven films a batch: the slices of the two are unequal."""
    (tmp_path / "two.py").write_text(TWO)
    paths = {"PYTHONPATH": str(Path(imagenet.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, command in (("one", [sys.executable]), ("both", launch)):
        done = subprocess.run(
            [*command, str(tmp_path / "two.py"), str(tmp_path / name)],
            env={**os.environ, **paths},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    facts = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("one", "both")]
    assert [fact["training"]["processes"] for fact in facts] == [1, 2]
    one, both = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("one", "both"))
    assert one == pytest.approx(both, rel=5e-3) and len(set(one)) == 6
    one, both = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "both"))
    for name, weights in one.items():
        # AdamW takes a full step along the sign of a gradient near zero, which rounding can turn.
        assert (both[name].float() - weights.float()).abs().mean() < 2e-3, name


def test_bf16_is_for_hardware_that_has_it_and_not_for_depthwise_convolutions_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, depthwise = (build_detector(config(arch), seed=0) for arch in ("test_resnet", "test_efficientnet"))
    monkeypatch.setattr(detector_room, "choose_dtype", lambda device: torch.bfloat16)
    assert uses_bf16(plain, torch.device("cpu")) and not uses_bf16(depthwise, torch.device("cpu"))
    assert uses_bf16(depthwise, torch.device("cuda"))
    monkeypatch.setattr(detector_room, "choose_dtype", lambda device: torch.float32)
    assert not uses_bf16(plain, torch.device("cuda"))


def test_nothing_to_learn_is_said(tmp_path: Path) -> None:
    films = toy_films(20, 48, "pleural_effusion", 0)
    with pytest.raises(DataError, match="nothing to learn"):
        list(train_detector(films.subset(range(0, 20, 2)), recipe=QUICK, out=tmp_path))


def test_the_embedded_detector_fits_its_card() -> None:
    assert detector_facts() is not None
    detector = load_detector("embedded")
    assert isinstance(detector, Detector) and {"no_finding", "pleural_effusion"} <= set(detector.findings)
    folder = Path(imagenet.__file__).parent / "assets" / "embedded-detector"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 16e6
    card = (folder / "README.md").read_text()
    assert "NIH Clinical Center" in card and "nihcc.app.box.com/v/ChestXray-NIHCC" in card
