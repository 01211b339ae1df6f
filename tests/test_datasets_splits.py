"""Splits by patient, split files, and the summary of a folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthaug.datasets import RealRadiographs, load_split, split_patients, summarise, write_split
from synthaug.datasets.formats import Options
from synthaug.datasets.splits import packaged_splits
from synthaug.errors import DataError, UnknownNameError


class People:
    """Only what a split needs to know."""

    def __init__(self, patients: list[str | None]) -> None:
        self.patients = patients
        self.keys = [f"film{i}" for i in range(len(patients))]


@given(st.lists(st.integers(0, 30), min_size=40, max_size=80), st.integers(0, 5))
def test_no_patient_lies_in_two_parts(numbers: list[int], seed: int) -> None:
    films = People([str(number) for number in [*range(10), *numbers]])
    parts = split_patients(films, {"train": 0.5, "validation": 0.2, "test": 0.3}, seed)
    people = {part: {films.patients[i] for i in indices} for part, indices in parts.items()}
    assert sum(map(len, people.values())) == len(set(films.patients))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(films.keys)))
    assert abs(len(people["train"]) - 0.5 * len(set(films.patients))) <= 0.5
    turned = People(films.patients[::-1])
    again = split_patients(turned, {"train": 0.5, "validation": 0.2, "test": 0.3}, seed)
    assert {turned.patients[i] for i in again["test"]} == people["test"]


def test_a_share_below_one_leaves_patients_out_and_the_seed_decides() -> None:
    films = People([str(i) for i in range(100)])
    first, second = (split_patients(films, {"a": 0.2, "b": 0.1}, seed) for seed in (0, 1))
    assert [len(part) for part in first.values()] == [20, 10]
    assert set(first["a"].tolist()) != set(second["a"].tolist())


def test_splits_that_cannot_be() -> None:
    films = People(["1", "2", None, None])
    with pytest.raises(DataError, match=r"2 of 4 films have no patient.*by_film=True"):
        split_patients(films, {"train": 0.5, "test": 0.5})
    parts = split_patients(films, {"train": 0.5, "test": 0.5}, by_film=True)
    assert sorted(map(len, parts.values())) == [2, 2]
    for wrong in ({}, {"a": 0.0}, {"a": 0.8, "b": 0.3}, {"a": -1.0}):
        with pytest.raises(DataError, match="fractions: found"):
            split_patients(films, wrong, by_film=True)
    with pytest.raises(DataError, match=r"the part 'a' comes out empty: 0.01 of 4 patients"):
        split_patients(films, {"a": 0.01, "b": 0.9}, by_film=True)


def test_a_split_file_reads_back_and_selects(tmp_path: Path, tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih)
    parts = split_patients(films, {"generator": 0.5, "test": 0.25}, seed=0)
    write_split(tmp_path / "split.csv", films, parts)
    loaded = load_split(tmp_path / "split.csv")
    assert {part: len(keys) for part, keys in loaded.items()} == {"generator": 12, "test": 6}
    chosen = RealRadiographs(tiny_nih, split="test", splits_file=tmp_path / "split.csv")
    assert chosen.keys == [films.keys[i] for i in parts["test"]]
    with pytest.raises(DataError, match="no split 'tset'; did you mean 'test'"):
        RealRadiographs(tiny_nih, split="tset", splits_file=tmp_path / "split.csv")
    with pytest.raises(DataError, match="give --split NAME"):
        RealRadiographs(tiny_nih, splits_file=tmp_path / "split.csv")
    with pytest.raises(DataError, match="the folder has no splits; give one with splits_file"):
        RealRadiographs(tiny_nih, split="test")


def test_split_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    for text, message in {
        "image,set\na,b\n": "no column 'part'",
        "image,part\na.png,\n": "line 2: found 'a.png', ''",
        "image,part\na.png,x\na.jpg,y\n": "line 3: a is both in x and in y",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load_split(path)
    with pytest.raises(UnknownNameError, match="unknown split file 'nih-sampel'; did you mean 'nih-sample'"):
        load_split("nih-sampel")


def test_the_packaged_split_keeps_patients_apart() -> None:
    assert "nih-sample" in packaged_splits()
    parts = load_split("nih-sample")
    assert set(parts) == {"generator", "detector", "validation", "test"}
    patients: dict[str, set[str]] = {}
    for part, keys in parts.items():
        for key in keys:
            patients.setdefault(key.split("_")[0], set()).add(part)  # NIH names films patient_followup
    assert all(len(part) == 1 for part in patients.values())


def test_a_summary_counts_everything(tmp_path: Path, tiny_nih: Path) -> None:
    root = shutil.copytree(tiny_nih, tmp_path / "nih")
    (root / "images" / "90000001_000.png").unlink()
    (root / "images" / "90000012_001.png").write_bytes(b"broken")
    counts: list[int] = []
    summary = summarise(root, progress=lambda done, _: counts.append(done))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["format"], summary["films"], summary["patients"]) == ("nih", 23, 12)
    assert summary["findings"]["pleural_effusion"] == {"present": 10, "absent": 13, "unknown": 0}
    assert summary["views"] == {"PA": 11, "AP": 12, "lateral": 0, "unknown": 0}
    assert summary["sexes"] == {"F": 12, "M": 11, "unknown": 0}
    assert summary["ages"]["under_18"] == 2 and summary["ages"]["max"] == 80.0
    assert sum(summary["ages"]["decades"].values()) == 23
    assert summary["left_out"] == {
        "label row without an image": {"count": 1, "examples": ["90000001_000.png"]}
    }
    assert [fault["film"] for fault in summary["unreadable"]] == [str(root / "images" / "90000012_001.png")]
    assert summary["image_sizes"] == {"96x96": 22} and counts[-1] == 23 and summary["faults"] == []


def test_a_summary_of_other_layouts(tiny_shards: Path, tiny_class_folders: Path, tmp_path: Path) -> None:
    made = summarise(tiny_shards)
    assert (made["format"], made["synthetic"], made["image_sizes"]) == ("shards", 24, {"64x64": 24})
    folders = summarise(tiny_class_folders, decode=False)
    assert (
        folders["explanation"].startswith("class folders: effusion, normal; no sign of")
        and folders["unreadable"] is None
    )
    assert folders["findings"]["pleural_effusion"] == {"present": 12, "absent": 12, "unknown": 0}
    assert folders["films_without_patient"] == 24 and folders["ages"]["median"] is None
    shutil.copy(next(tiny_class_folders.glob("*/*.jpg")), tmp_path / "a.jpg")
    shutil.copy(tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "labels.csv").write_text("scan,edema\na,1\nb,maybe\n")
    table = summarise(tmp_path, options=Options(columns={"image": "scan"}), decode=False)
    assert table["films"] == 1 and "line 3: column 'edema': found the label 'maybe'" in table["faults"][0]
    assert table["left_out"]["label row that cannot be read"]["examples"] == ["b"]
    with pytest.raises(DataError, match="no such folder"):
        summarise(tmp_path / "nowhere")


def test_the_real_folders_hold_what_their_readme_counts(films: Path) -> None:
    nih = summarise(films / "nih-sample", decode=False)
    present = {finding: counts["present"] for finding, counts in nih["findings"].items()}
    assert (nih["films"], nih["patients"], nih["ages"]["under_18"]) == (3347, 2181, 51)
    assert (nih["views"]["PA"], nih["views"]["AP"], nih["left_out"]) == (2006, 1341, {})
    expected = {
        "no_finding": 1908,
        "infiltration": 523,
        "pneumonia": 487,
        "atelectasis": 396,
        "pleural_effusion": 388,
    }
    assert expected.items() <= present.items()
    assert nih["reading"]["boxes"].startswith("655 ")
    classes = summarise(films / "effusion-vs-normal", decode=False)["findings"]
    assert (classes["pleural_effusion"]["present"], classes["no_finding"]["present"]) == (383, 395)
    children = summarise(films / "pediatric-pneumonia", decode=False)
    assert children["findings"]["pneumonia"]["present"] == 4273 and children["films"] == 5856
    assert set(children["splits"]) == {"train", "validation", "test"}


def test_the_real_films_open_by_the_packaged_split(films: Path) -> None:
    adults = RealRadiographs(
        films / "nih-sample", split="detector", splits_file="nih-sample", min_age=18, views="PA"
    )
    parts = load_split("nih-sample")
    assert len(adults) > 100 and set(adults.keys) <= set(parts["detector"])
    boxed = [i for i, record in enumerate(adults.records) if "boxes" in record.provenance]
    assert boxed and adults.image(boxed[0]).shape == (512, 512)
    assert adults.subset(boxed[:4]).images_array(64).shape == (4, 1, 64, 64)
