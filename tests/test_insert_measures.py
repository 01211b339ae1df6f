"""Figures of insertions against closed forms and torchmetrics, and the command that writes them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthaug import cli
from synthaug.datasets import RealRadiographs
from synthaug.detection import DetectorConfig, build_detector
from synthaug.evaluation.insertion import (
    measure,
    only_asked,
    radiologist_boxes,
    share_inside,
    ssim_map,
    ssim_outside,
    turned_present,
    usual_place,
)
from synthaug.evaluation.results import Results


def test_ssim_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (40, 48)).astype(np.uint8)
    second = np.clip(first + rng.normal(0, 30, first.shape), 0, 255).astype(np.uint8)
    pair = [torch.from_numpy(film).double()[None, None] for film in (first, second)]
    _, theirs = structural_similarity_index_measure(*pair, data_range=255.0, return_full_image=True)
    # Their padding differs from ours at the border; a window's width inside they agree.
    inner = (slice(6, -6), slice(6, -6))
    assert np.allclose(ssim_map(first, second)[inner], theirs[0, 0].numpy()[inner], atol=1e-9)


def test_ssim_outside_of_constant_and_equal_films() -> None:
    grey, dark = np.full((20, 20), 200, np.uint8), np.full((20, 20), 100, np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim_outside(grey, dark, mask) == pytest.approx((2 * 200 * 100 + c1) / (200**2 + 100**2 + c1))
    assert ssim_outside(grey, grey, mask) == 1
    changed = grey.copy()
    changed[:, 15:] = 0
    mask[:, 10:] = 1  # six columns at least between what changed and what is looked at
    assert ssim_outside(grey, changed, mask) == pytest.approx(1)
    assert np.isnan(ssim_outside(grey, dark, np.ones((20, 20))))


def test_only_the_asked_finding_changed() -> None:
    cuts = np.array([0.5, 0.2, 0.9])
    before = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.6, 0.1, 0.1], [0.1, 0.3, 0.95]])
    after = np.array([[0.5, 0.1, 0.8], [0.9, 0.2, 0.1], [0.9, 0.1, 0.1], [0.7, 0.1, 0.95]])
    assert turned_present(before[:, 0], after[:, 0], 0.5).tolist() == [True, True, False, True]
    # The second gains another finding, the third had it before, the fourth loses another.
    assert only_asked(before, after, cuts, 0).tolist() == [True, False, False, False]


def test_the_usual_place_is_where_boxes_lie_most_densely() -> None:
    one = usual_place([(0.25, 0.5, 0.5, 0.25)], grid=16, mass=1.0)
    expected = np.zeros((16, 16), bool)
    expected[8:12, 4:12] = True
    assert np.array_equal(one, expected)
    # A small and a large box of equal weight: the small one's pixels hold half of the mass.
    both = usual_place([(0.25, 0.25, 0.125, 0.125), (0.5, 0.5, 0.5, 0.5)], grid=16, mass=0.5)
    assert both.sum() == 4 and both[4:6, 4:6].all()


def test_the_share_of_a_change_inside_a_place() -> None:
    place = np.zeros((4, 4), bool)
    place[2:, 2:] = True
    difference = np.zeros((8, 8))
    difference[4:, 4:] = 3.0
    difference[0, :] = 2.0
    assert share_inside(difference, place) == pytest.approx(48 / 64)
    assert share_inside(np.ones((8, 8)), place) == place.mean()
    assert np.isnan(share_inside(np.zeros((8, 8)), place))


@pytest.fixture(scope="module")
def boxed(tiny_nih: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn NIH films with boxes of two effusions, in pixels of 1024, and of one mass."""
    root = tmp_path_factory.mktemp("boxed")
    (root / "images").symlink_to(tiny_nih / "images")
    name = "Data_Entry_2017_v2020.csv"
    (root / name).write_bytes((tiny_nih / name).read_bytes())
    lines = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    lines += ["90000006_000.png,Effusion,512,512,256,512", "90000007_000.png,Effusion,256,512,256,256"]
    lines += ["90000008_000.png,Mass,0,0,64,64"]
    (root / "BBox_List_2017.csv").write_text("\n".join(lines) + "\n")
    return root


def test_boxes_of_the_test_part_are_left_out(boxed: Path, tmp_path: Path) -> None:
    films = RealRadiographs(boxed)
    assert radiologist_boxes(films, "pleural_effusion") == [(0.5, 0.5, 0.25, 0.5), (0.25, 0.5, 0.25, 0.25)]
    split = tmp_path / "split.csv"
    split.write_text("image,part\n90000006_000,test\n90000007_000,validation\n")
    assert radiologist_boxes(films, "pleural_effusion", str(split)) == [(0.25, 0.5, 0.25, 0.25)]


def test_the_command_measures(
    tiny_checkpoint: Path, boxed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DetectorConfig(
        arch="test_resnet", findings=("no_finding", "pleural_effusion", "mass"), image_size=32
    )
    build_detector(config, seed=1).save(tmp_path / "judge")
    given = ["insert", "--label", "effusion", "--num-inference-steps", "2", "--model", str(tiny_checkpoint)]
    given += ["--device", "cpu", "--out", str(tmp_path / "o"), "--into", str(boxed), "--count", "4"]
    assert cli.main([*given, "--boxes", str(boxed)]) == 2  # boxes are for measuring
    assert "add --detector" in capsys.readouterr().err
    judge = str(tmp_path / "judge")
    assert cli.main([*given, "--detector", judge, "--boxes", str(boxed)]) == 0
    assert "score after - before" in capsys.readouterr().out
    results = Results.read(tmp_path / "o")
    found = {metric.name: metric for metric in results.metrics}
    before, after, rise = (found[f"score {name}"].value for name in ("before", "after", "after - before"))
    assert rise == pytest.approx(after - before, abs=2e-6)
    # Four films of two patients: a t interval of one degree of freedom.
    assert found["score before"].n == 4 and found["score before"].low < before < found["score before"].high
    assert found["SSIM outside the mask"].value > 0.9
    place = found["change inside the usual place"]
    assert (
        0 <= place.low <= place.value <= place.high <= 1
        and 0 < place.floor < 0.25
        and "2 boxes" in place.note
    )
    assert str(tmp_path) not in json.dumps(results.model_dump(mode="json"))
    # Without boxes the figure says why it is missing; without a known finding so do the scores.
    config = DetectorConfig(arch="test_resnet", findings=("mass",), image_size=32)
    build_detector(config, seed=1).save(tmp_path / "other")
    bare = measure(tmp_path / "o", [tmp_path / "other"], device="cpu")
    assert bare.find("turned present").reason == "the detector does not know pleural_effusion"
    assert bare.find("change inside the usual place").value is None
    with Image.open(tmp_path / "o" / "preview.png") as sheet:
        assert sheet.width == 4 * 34 + 2
