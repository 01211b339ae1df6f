"""Data sets: items, labels, selection, what cannot be read, and DataLoader workers."""

import math
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import VisionDataset

from synthaug import datasets, images, shards
from synthaug.datasets import MixedRadiographs, RealRadiographs, SyntheticRadiographs, open_radiographs
from synthaug.datasets.mixed import mixture
from synthaug.datasets.selection import UNREADABLE
from synthaug.errors import DataError, ImageError, LabelError, UnknownNameError
from synthaug.record import Record


def mean_pixel(image: Image.Image) -> Tensor:
    return torch.tensor(np.asarray(image, dtype=np.float32).mean())


def double(target: Tensor) -> Tensor:
    return target * 2


@pytest.fixture
def broken(tmp_path: Path, tiny_class_folders: Path) -> Path:
    """Class folders of 24 films of which two cannot be read."""
    root = shutil.copytree(tiny_class_folders, tmp_path / "broken")
    (root / "effusion" / "film-003.jpg").write_bytes(b"not an image")
    whole = (root / "normal" / "film-005.jpg").read_bytes()
    (root / "normal" / "film-005.jpg").write_bytes(whole[: len(whole) // 2])
    return root


def test_the_exported_surface() -> None:
    assert datasets.__all__ == sorted(datasets.__all__) == dir(datasets)
    assert all(getattr(datasets, name) is not None for name in datasets.__all__)
    with pytest.raises(AttributeError, match="no attribute 'RealFilms'"):
        _ = datasets.RealFilms


def test_no_torch_before_a_data_set_is_opened() -> None:
    code = "import sys; from synthaug.datasets import summarise, load_split; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_an_item_is_a_grey_picture_and_a_label_vector(tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih, findings=["effusion", "No Finding", "fracture"])
    assert isinstance(films, VisionDataset) and len(films) == 24
    assert films.findings == ("pleural_effusion", "no_finding", "fracture")
    image, target = films[10]
    assert isinstance(image, Image.Image) and image.mode == "L" and image.size == (96, 96)
    assert target.dtype == torch.float32
    np.testing.assert_array_equal(target, [1, 0, math.nan])
    np.testing.assert_array_equal(np.asarray(image), images.read(films.films[10].path))
    target[:] = 7
    np.testing.assert_array_equal(films[10][1], [1, 0, math.nan])
    assert films.labels.shape == (24, 3) and films.labels.dtype == np.float32
    assert films.patients[:3] == ["1", "1", "2"] and films.views[:2] == ["PA", "AP"]
    assert films.ages[0] == 30.0 and films.sexes[:3] == ["M", "M", "F"] and films.keys[0] == "90000001_000"
    assert not films.synthetic.any() and len(list(films)) == 24
    with pytest.raises(IndexError):
        films[24]


def test_transforms_and_sizes(tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih, transform=mean_pixel, target_transform=double, image_size=32, fit="pad")
    image, target = films[10]
    assert image == pytest.approx(images.resize(images.read(films.films[10].path), 32, "pad").mean())
    assert target.max() == 2
    held = films.images_array(16)
    assert held.shape == (24, 1, 16, 16) and held.dtype == np.uint8
    np.testing.assert_array_equal(held[5, 0], images.resize(films.image(5), 16))
    done: list[tuple[int, int]] = []
    films.subset([0, 1]).images_array(8, progress=lambda *counts: done.append(counts))
    assert done == [(1, 2), (2, 2)]


def test_a_single_finding_and_findings_that_are_none(tiny_nih: Path) -> None:
    assert RealRadiographs(tiny_nih, findings="effusion").findings == ("pleural_effusion",)
    with pytest.raises(UnknownNameError, match="did you mean 'pleural_effusion'"):
        RealRadiographs(tiny_nih, findings=["plural_effusion"])
    with pytest.raises(DataError, match="findings: none given"):
        RealRadiographs(tiny_nih, findings=[])


def test_subset_keeps_everything_beside_its_film(tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih)
    part = films.subset([12, -1, 3])
    assert type(part) is RealRadiographs and part.keys == [films.keys[12], films.keys[23], films.keys[3]]
    np.testing.assert_array_equal(part.labels, films.labels[[12, 23, 3]])
    np.testing.assert_array_equal(part.image(0), films.image(12))
    mask = np.array([patient == "11" for patient in films.patients])
    assert films.subset(mask).patients == ["11", "11"] and len(films.subset([])) == 0 and len(films) == 24
    for wrong in ([24], mask[:5]):
        with pytest.raises(IndexError):
            films.subset(wrong)


def test_with_findings_also_asks_for_findings_outside_the_label_vector(tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih, findings=["no_finding"])
    assert set(films.with_findings(pleural_effusion=1, atelectasis=0).patients) == {"6", "7", "8", "9"}
    assert set(films.with_findings({"effusion": 1}, atelectasis=1).patients) == {"10"}
    assert len(films.with_findings(no_finding=1)) == 12
    assert len(films.with_findings(fracture=math.nan)) == 12  # unknown wherever something was found
    with pytest.raises(LabelError, match="contradict"):
        films.with_findings(no_finding=1, mass=1)


def test_filters_count_what_they_leave_out(tiny_nih: Path, tiny_class_folders: Path) -> None:
    films = RealRadiographs(tiny_nih, min_age=18, max_age=75, views="PA")
    assert [int(patient or 0) for patient in films.patients] == list(range(1, 11))
    left_out = {reason: len(keys) for reason, keys in films.left_out.items()}
    assert left_out == {"view other than PA": 12, "older than 75": 1, "younger than 18": 1}
    with pytest.raises(UnknownNameError, match="unknown view 'pa'; did you mean 'PA'"):
        RealRadiographs(tiny_nih, views=["pa"])
    with pytest.raises(DataError, match=r"no film is left \(24 x unknown age\)"):
        RealRadiographs(tiny_class_folders, min_age=18)


def test_an_unreadable_image_is_named_and_skipped_only_when_asked(broken: Path) -> None:
    films = RealRadiographs(broken)
    assert len(films) == 24
    with pytest.raises(ImageError, match=r"film-003.jpg.*--skip-bad"):
        films[3]
    with pytest.raises(ImageError, match=r"film-003.jpg"):
        films.images_array(16)
    counts: list[int] = []
    kept = RealRadiographs(broken, skip_bad=True, progress=lambda done, _: counts.append(done))
    assert len(kept) == 22 and kept.left_out == {UNREADABLE: ("effusion/film-003", "normal/film-005")}
    assert kept.images_array(16).shape[0] == 22 and counts == list(range(1, 25))
    assert "Left out: 2 x image that cannot be read" in repr(kept)


def test_synthetic_films_carry_their_provenance(tiny_shards: Path, tiny_radiographs: Callable) -> None:
    films = SyntheticRadiographs(tiny_shards)
    drawn, _ = tiny_radiographs(24)
    assert films.findings == ("no_finding", "pleural_effusion") and films.synthetic.all()
    np.testing.assert_array_equal(films.image(17), drawn[17, 0])
    np.testing.assert_array_equal(films[17][1], [0, 1])
    assert films.records[17].prompt == "chest radiograph: pleural effusion"
    assert films.records[17].provenance["seed"] == 0
    np.testing.assert_array_equal(films.labels, shards.ShardSet(tiny_shards).labels(films.findings))
    assert SyntheticRadiographs(tiny_shards, views="AP").keys == films.keys[1::2]


def test_a_damaged_image_in_a_shard_is_named(tiny_shards: Path) -> None:
    record = Record("000000000", {"edema": 1.0}, synthetic=True)
    shards.write_manifest(tiny_shards, [shards.write_shard(tiny_shards, 0, [(record, b"noise", "png")])])
    with pytest.raises(ImageError, match=r"tiny-shards: 000000000: .*not an image"):
        SyntheticRadiographs(tiny_shards)[0]
    with pytest.raises(DataError, match=r"no film is left \(1 x image that cannot be read\)"):
        SyntheticRadiographs(tiny_shards, skip_bad=True)


def test_real_and_synthetic_are_not_taken_for_each_other(
    tmp_path: Path, tiny_shards: Path, tiny_class_folders: Path
) -> None:
    with pytest.raises(
        DataError, match=r"film 000000000 is synthetic; open the folder as SyntheticRadiographs"
    ):
        RealRadiographs(tiny_shards)
    packed = tmp_path / "packed"
    packed.mkdir()
    image = images.encode(np.zeros((8, 8), np.uint8))
    real = [(Record("a", {"mass": 1.0}, patient="p"), image, "png")]
    shards.write_manifest(packed, [shards.write_shard(packed, 0, real)])
    with pytest.raises(DataError, match=r"film a is real; open the folder as RealRadiographs"):
        SyntheticRadiographs(packed)
    assert isinstance(open_radiographs(tiny_shards, ["mass"]), SyntheticRadiographs)
    assert open_radiographs(packed).patients == ["p"]
    assert isinstance(open_radiographs(tiny_class_folders, skip_bad=True), RealRadiographs)
    assert SyntheticRadiographs(tiny_class_folders).synthetic.all()  # another generator's images


@pytest.mark.parametrize(
    ("real", "synthetic", "fraction", "size", "expected"),
    [
        (10, 10, 0.5, None, (10, 10)),
        (10, 4, 0.5, None, (4, 4)),
        (100, 1000, 0.75, None, (100, 302)),
        (1000, 1000, 0.1, None, (1000, 111)),
        (10, 10, 0, None, (10, 0)),
        (10, 10, 1, None, (0, 10)),
        (1000, 1000, 0.3, 10, (7, 3)),
        (1000, 1000, 0.25, 10, (7, 3)),
        (1000, 1000, 0.24, 10, (8, 2)),
    ],
)
def test_mixture_counts(
    real: int, synthetic: int, fraction: float, size: int | None, expected: tuple[int, int]
) -> None:
    assert mixture(real, synthetic, fraction, size) == expected


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 100))
def test_the_largest_mixture_is_exact_and_no_larger_one_fits(real: int, synthetic: int, percent: int) -> None:
    def counts(total: int) -> tuple[int, int]:
        generated = (2 * total * percent + 100) // 200  # floor(total * percent / 100 + 1/2), in whole numbers
        return total - generated, generated

    fitting = [n for n in range(1, 122) if counts(n)[0] <= real and counts(n)[1] <= synthetic]
    if fitting:
        assert mixture(real, synthetic, percent / 100) == counts(max(fitting))
    else:
        with pytest.raises(DataError, match="needs"):
            mixture(real, synthetic, percent / 100)


def test_mixed_is_exact_deterministic_and_repeats_nothing(tiny_nih: Path, tiny_shards: Path) -> None:
    real, synthetic = RealRadiographs(tiny_nih), SyntheticRadiographs(tiny_shards)
    mixed = MixedRadiographs(real, synthetic, synthetic_fraction=0.25, seed=3, size=20)
    assert len(mixed) == 20 and mixed.synthetic.sum() == 5 and len(set(mixed.keys)) == 20
    assert not mixed.synthetic[:15].all() and mixed.synthetic[:15].any()  # in mixed order
    again = MixedRadiographs(real, synthetic, synthetic_fraction=0.25, seed=3, size=20)
    other = MixedRadiographs(real, synthetic, synthetic_fraction=0.25, seed=4, size=20)
    smaller = MixedRadiographs(real, synthetic, synthetic_fraction=0.25, seed=3, size=8)
    assert mixed.keys == again.keys != other.keys and set(smaller.keys) < set(mixed.keys)
    assert mixed.findings == real.findings
    for i in (0, 7, 19):
        part = synthetic if mixed.synthetic[i] else real
        j = part.keys.index(mixed.keys[i])
        np.testing.assert_array_equal(mixed.image(i), part.image(j))
        np.testing.assert_array_equal(
            mixed[i][1][[0, 5]], [part.column("no_finding")[j], part.column("effusion")[j]]
        )
    generated = mixed.subset(mixed.synthetic)
    assert len(generated) == 5 and generated.synthetic.all()
    np.testing.assert_array_equal(generated.image(0), mixed.image(int(np.flatnonzero(mixed.synthetic)[0])))


def test_mixed_uses_its_own_transforms_or_those_of_the_parts(tiny_nih: Path, tiny_shards: Path) -> None:
    real = RealRadiographs(tiny_nih, transform=mean_pixel, image_size=48)
    synthetic = SyntheticRadiographs(tiny_shards)
    parts = MixedRadiographs(real, synthetic, 0.5)
    at = {bool(parts.synthetic[i]): parts[i][0] for i in range(len(parts))}
    assert isinstance(at[False], Tensor) and isinstance(at[True], Image.Image)
    own = MixedRadiographs(real, synthetic, 0.5, target_transform=double, image_size=24)
    assert all(image.size == (24, 24) and target.nan_to_num().max() == 2 for image, target in own)


def test_mixtures_that_cannot_be(tiny_nih: Path, tiny_shards: Path) -> None:
    real, synthetic = RealRadiographs(tiny_nih), SyntheticRadiographs(tiny_shards)
    with pytest.raises(DataError, match="expected real films first"):
        MixedRadiographs(synthetic, real, 0.5)
    with pytest.raises(DataError, match=r"synthetic_fraction: found 1.5, expected 0 to 1"):
        MixedRadiographs(real, synthetic, 1.5)
    with pytest.raises(DataError, match="needs 20 real and 20 synthetic films, found 24 and 3"):
        MixedRadiographs(real, synthetic.subset(range(3)), 0.5, size=40)
    with pytest.raises(DataError, match="needs 0 real and 1 synthetic"):
        MixedRadiographs(real, synthetic.subset([]), 1.0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a machine with one processor
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_dataloader_workers_see_what_this_process_sees(
    context: str, tiny_nih: Path, tiny_shards: Path
) -> None:
    real = RealRadiographs(tiny_nih, transform=mean_pixel, findings=["no_finding", "effusion"])
    synthetic = SyntheticRadiographs(tiny_shards, transform=mean_pixel)
    mixed = MixedRadiographs(real, synthetic, 0.5, seed=1)
    here = [mixed[i] for i in range(len(mixed))]
    there = [
        item
        for pictures, targets in DataLoader(mixed, 5, num_workers=2, multiprocessing_context=context)
        for item in zip(pictures, targets, strict=True)
    ]
    assert len(there) == 48
    for (picture, target), (picture_there, target_there) in zip(here, there, strict=True):
        assert picture == picture_there and torch.equal(target, target_there)


def test_data_sets_pickle(tiny_nih: Path, tiny_shards: Path) -> None:
    real, synthetic = RealRadiographs(tiny_nih), SyntheticRadiographs(tiny_shards)
    for films in (real, synthetic, MixedRadiographs(real, synthetic, 0.5)):
        copied = pickle.loads(pickle.dumps(films))
        assert copied.keys == films.keys and copied.records == films.records
        np.testing.assert_array_equal(copied.image(3), films.image(3))


def test_the_notebook_grid_shows_pictures_and_escapes(tmp_path: Path, tiny_nih: Path, broken: Path) -> None:
    page = RealRadiographs(tiny_nih)._repr_html_()
    assert "RealRadiographs: 24 films of 12 patients" in page and page.count("data:image/png;base64,") == 8
    assert "pleural effusion" in page
    evil = tmp_path / "evil" / "mass"
    evil.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(evil / "<script>'&.png")
    page = RealRadiographs(tmp_path / "evil")._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;&#x27;&amp;: mass" in page
    page = RealRadiographs(broken).subset([3, 4])._repr_html_()
    assert page.count("data:image") == 1 and "not an image" in page
    assert "0 films" in RealRadiographs(tiny_nih).subset([])._repr_html_()
