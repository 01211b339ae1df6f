"""Exports: pixels and labels come back equal, and the libraries they are for open them."""

import csv
import io
import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthaug import images, shards
from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.datasets.export import PLAN, TARGETS, export
from synthaug.datasets.packing import Packing, pack
from synthaug.errors import DataError, OutputFolderError, UnknownNameError
from synthaug.record import Record

IPTC = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven synthetic films with every kind of label, of uneven sizes, in two shards."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(3)
    labels = [
        {"no_finding": 1.0}, {"pleural_effusion": 1.0, "edema": None}, {"edema": 0.0, "mass": 1.0},
        {"pleural_effusion": 1.0, "covid_19": 1.0}, {}, {"mass": 0.0}, {"edema": 1.0, "no_finding": 0.0},
    ]  # fmt: skip
    samples = [
        (
            Record(
                f"{i:09d}", label, view=("PA", "AP", "lateral", None)[i % 4], age=(None, 61.0)[i % 2],
                sex=("F", "M", None)[i % 3], prompt="chest, \"radiograph\"; é", synthetic=True,
                provenance={"seed": 1, **({"split": "test"} if i == 5 else {})},
            ),
            images.encode(rng.integers(0, 256, (33 + i, 47), np.uint8)), "png",
        )
        for i, label in enumerate(labels)
    ]  # fmt: skip
    entries = [shards.write_shard(folder, 0, samples[:4]), shards.write_shard(folder, 1, samples[4:])]
    shards.write_manifest(folder, entries)
    return folder


def same(back: SyntheticRadiographs | RealRadiographs, films: SyntheticRadiographs | RealRadiographs) -> None:
    """Equal pixels and labels, in one order or another: films are told apart by their size and pixels."""
    assert len(back) == len(films) and set(films.findings) <= set(back.findings)
    found = {back.image(i).tobytes(): i for i in range(len(back))}
    for i in range(len(films)):
        j = found[films.image(i).tobytes()]
        np.testing.assert_array_equal(back.image(j), films.image(i))
        np.testing.assert_array_equal(back.relabel(films.findings).labels[j], films.labels[i])
        assert (back.views[j], back.ages[j], back.sexes[j]) == (films.views[i], films.ages[i], films.sexes[i])


@pytest.mark.parametrize("target", TARGETS)
def test_there_and_back_again(tmp_path: Path, made: Path, target: str) -> None:
    films = SyntheticRadiographs(made)
    done: list[tuple[int, int]] = []
    out = export(films, tmp_path / "out", target, lambda *n: done.append(n))
    assert done[-1] == (7, 7)
    back = SyntheticRadiographs(out)
    expected = {"imagefolder": "hf_folder", "torchxrayvision": "chexpert", "hf": "parquet"}
    assert back.format == expected.get(target, target) and not back.left_out
    same(back, films)
    if target in ("csv", "imagefolder", "parquet", "hf"):
        assert {r.prompt for r in back.records} == {'chest, "radiograph"; é'}
        with pytest.raises(DataError, match="is synthetic; open the folder as SyntheticRadiographs"):
            RealRadiographs(out, views="all")
    pack(back.films, tmp_path / "again", Packing(shard_size=4))
    same(SyntheticRadiographs(tmp_path / "again"), films)


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "dicom"])
def test_real_films_of_a_public_layout(tmp_path: Path, tiny_nih: Path, target: str) -> None:
    films = RealRadiographs(tiny_nih, findings=["no_finding", "effusion", "cardiomegaly"])
    out = export(films, tmp_path / "out", target)
    back = RealRadiographs(out)
    same(back, films)
    assert len(set(back.patients)) == 12
    assert not any(IPTC in path.read_bytes() for path in out.rglob("*.png"))


def test_png_of_synthetic_films_say_so(tmp_path: Path, made: Path) -> None:
    out = export(SyntheticRadiographs(made), tmp_path / "out", "csv")
    files = sorted((out / "images").iterdir())
    assert len(files) == 7 and all(IPTC in path.read_bytes() for path in files)
    with open(out / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pleural_effusion"] for row in rows] == ["0", "1", "", "1", "", "", ""]


def test_the_same_call_goes_on_and_equals_an_uninterrupted_one(tmp_path: Path, made: Path) -> None:
    films = SyntheticRadiographs(made)
    for target in TARGETS:
        whole = export(films, tmp_path / f"{target}-whole", target)
        out = shutil.copytree(whole, tmp_path / target)
        files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != PLAN)
        for path in files[1::2]:
            path.unlink()
        export(films, out, target)
        content = [
            {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in (whole, out)
        ]
        assert content[0] == content[1], target
    with pytest.raises(OutputFolderError, match="findings differ from"):
        export(films.relabel("edema"), tmp_path / "csv", "csv")
    with pytest.raises(UnknownNameError, match="unknown target 'dicm'; did you mean 'dicom'"):
        export(films, tmp_path / "x", "dicm")
    with pytest.raises(DataError, match="no film to export"):
        export(films.subset([]), tmp_path / "x", "csv")


def test_torchvision_opens_the_image_folder(tmp_path: Path, made: Path) -> None:
    from torchvision.datasets import ImageFolder

    films = SyntheticRadiographs(made)
    folder = ImageFolder(str(export(films, tmp_path / "out", "imagefolder")))
    assert len(folder) == 7
    combinations = "edema mass no_finding pleural_effusion pleural_effusion+covid_19 unlabelled"
    assert folder.classes == combinations.split()


def test_pandas_reads_the_parquet(tmp_path: Path, made: Path) -> None:
    pandas = pytest.importorskip("pandas")
    out = export(SyntheticRadiographs(made), tmp_path / "out", "parquet")
    frame = pandas.read_parquet(out / "films-00000.parquet")
    assert frame["edema"].isna().sum() == 4 and frame["synthetic"].all()
    assert Image.open(io.BytesIO(frame["image"][2]["bytes"])).size == (47, 35)


def test_hugging_face_opens_the_hf_target_with_its_features(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)
    out = export(SyntheticRadiographs(made), tmp_path / "out", "hf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in read.items()} == {"train": 6, "test": 1}
    train = read["train"]
    assert isinstance(train.features["image"], datasets.Image)
    assert train.features["edema"] == datasets.Value("int8")
    assert train["edema"] == [0, None, 0, None, None, 1] and train[1]["image"].size == (47, 34)


def test_torchxrayvision_opens_its_target(tmp_path: Path, made: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xrv = pytest.importorskip("torchxrayvision")
        out = export(SyntheticRadiographs(made), tmp_path / "out", "torchxrayvision")
        read = xrv.datasets.CheX_Dataset(str(out), str(out / "train.csv"), views=["PA", "AP", "L"])
        first = read[0]
    assert len(read) == 6  # that of unknown view is not asked for
    assert first["img"].shape == (1, 33, 47) and -1024 <= first["img"].min() < first["img"].max() <= 1024
    effusion = read.labels[:, list(read.pathologies).index("Effusion")]
    np.testing.assert_array_equal(effusion, [0, 1, *[np.nan] * 4])


def test_a_dicom_film_is_marked_and_no_person(tmp_path: Path, made: Path) -> None:
    import pydicom

    films = SyntheticRadiographs(made)
    out = export(films, tmp_path / "out", "dicom")
    read = [pydicom.dcmread(path) for path in sorted(out.glob("*.dcm"))]
    assert len({d.SOPInstanceUID for d in read}) == len({d.StudyInstanceUID for d in read}) == 7
    for i, dataset in enumerate(read):
        np.testing.assert_array_equal(dataset.pixel_array, films.image(i))
        assert dataset.SOPClassUID.name == "Secondary Capture Image Storage"
        assert list(dataset.ImageType) == ["DERIVED", "SECONDARY"]
        person = {element.keyword: str(element.value) for element in dataset.group_dataset(0x10)}
        assert {k: v for k, v in person.items() if v} == {
            "PatientName": "SYNTHETIC",
            "PatientID": "SYNTHETIC",
        }
        plane = dataset.overlay_array(0x6000)
        assert plane.shape == dataset.pixel_array.shape and 0 < plane.mean() < 0.5
        assert not any(e.VR in ("DA", "TM", "DT") and e.value for e in dataset)
    assert (
        read[1].ImageComments.startswith("SYNTHETIC; no_finding=0; ")
        and "edema=unknown" in read[1].ImageComments
    )
    with open(out / "index.csv", newline="") as file:
        assert [row["sop_instance_uid"] for row in csv.DictReader(file)] == [d.SOPInstanceUID for d in read]
    again = export(films, tmp_path / "again", "dicom")
    assert (again / "000000003.dcm").read_bytes() == (out / "000000003.dcm").read_bytes()


def test_real_films_do_not_become_dicom(tmp_path: Path, tiny_nih: Path) -> None:
    with pytest.raises(DataError, match=r"--to dicom: 24 films are real; only synthetic films"):
        export(RealRadiographs(tiny_nih), tmp_path / "out", "dicom")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy (Debian: dicom3tools)")
def test_an_independent_validator_finds_no_error(tmp_path: Path, made: Path) -> None:
    out = export(SyntheticRadiographs(made), tmp_path / "out", "dicom")
    for path in sorted(out.glob("*.dcm")):
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        assert told.returncode == 0 and "Error" not in told.stdout + told.stderr, told.stderr
        assert "SCImage" in told.stdout + told.stderr


def test_keys_that_cannot_name_a_file(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("edema/a b;c.png", "mass/ünï.png"):
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10) + len(name)).save(root / name)
    films = RealRadiographs(root)
    for target in ("csv", "imagefolder", "parquet", "hf", "torchxrayvision"):
        same(RealRadiographs(export(films, tmp_path / target, target)), films)
    assert json.loads((tmp_path / "csv" / PLAN).read_text())["films"] == 2
