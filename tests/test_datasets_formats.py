"""Public layouts: what each reader takes from a folder, and what it says when it cannot."""

import csv
import math
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthaug.datasets import RealRadiographs
from synthaug.datasets.formats import Options, detect, nih, read_folder
from synthaug.datasets.formats.files import find_images
from synthaug.datasets.formats.listing import BAD_ROW, IMAGE_WITHOUT_ROW, ROW_WITHOUT_IMAGE
from synthaug.datasets.formats.matching import ImageIndex
from synthaug.datasets.formats.values import parse_age, parse_sex, parse_value, parse_view, split_name
from synthaug.errors import DataError, UnknownNameError

NIH_COLUMNS = [
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
    "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
]  # fmt: skip


def put_image(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) // 2 + value // 2).save(path)
    return path


def put_table(path: Path, *rows: list[object]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def put_nih(root: Path, *rows: tuple[object, ...]) -> Path:
    """An NIH folder of rows (name, labels, patient, age, sex, view); the images are JPEG."""
    lines = [
        [n, labels, 0, patient, age, sex, view, 2500, 2048, 0.168, 0.168]
        for n, labels, patient, age, sex, view in rows
    ]
    put_table(root / "Data_Entry_2017.csv", NIH_COLUMNS, *lines)
    for name, *_ in rows:
        put_image(root / "images" / f"{Path(str(name)).stem}.jpg")
    return root


def test_nih_takes_labels_patients_and_the_ugly_header(tiny_nih: Path) -> None:
    assert detect(tiny_nih) == ("nih", "NIH ChestX-ray14: Data_Entry_2017_v2020.csv")
    listing = read_folder(tiny_nih)
    assert len(listing.films) == 24 and listing.findings == nih.FINDINGS and len(nih.FINDINGS) == 15
    records = {film.record.key: film.record for film in listing.films}
    normal, both = records["90000001_000"], records["90000010_001"]
    assert set(both.labels) == set(nih.FINDINGS)
    assert {f for f, v in both.labels.items() if v == 1} == {"pleural_effusion", "atelectasis"}
    assert {f for f, v in both.labels.items() if v == 0} == set(nih.FINDINGS) - {
        "pleural_effusion",
        "atelectasis",
    }
    assert normal.labels["no_finding"] == 1 and sum(normal.labels.values()) == 1
    assert (both.patient, both.age, both.sex, both.view) == ("10", 75.0, "F", "AP")
    assert both.provenance["original_size"] == [96.0, 96.0]
    assert both.provenance["original_pixel_spacing_mm"] == [0.1, 0.1]


def test_nih_reads_both_spellings_of_an_age_and_matches_by_stem(tmp_path: Path) -> None:
    root = put_nih(
        tmp_path,
        ("a.png", "Effusion|Mass", 1, "058Y", "M", "PA"),
        ("b.png", "No Finding", 2, "412", "F", "AP"),
        ("c.png", "Infiltration", 3, "018M", "F", "AP"),
    )
    films = read_folder(root).films
    assert [film.path.name for film in films] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [film.record.age for film in films] == [58.0, None, 1.5]


def test_nih_boxes_stay_in_the_original_frame_and_rescale(tmp_path: Path) -> None:
    root = put_nih(tmp_path, ("a.png", "Infiltration", 1, 60, "M", "PA"), ("b.png", "Mass", 2, 60, "M", "PA"))
    (root / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\na.png,Infiltrate,100,200,300,400\na.png,Mass,1,2,3,4\n"
    )
    boxed, plain = (film.record for film in read_folder(root).films)
    assert boxed.provenance["boxes"][0] == {
        "finding": "infiltration",
        "x": 100.0,
        "y": 200.0,
        "w": 300.0,
        "h": 400.0,
    }
    assert boxed.provenance["boxes_frame"] == 1024 and "boxes" not in plain.provenance
    assert nih.boxes(boxed, 512) == [
        ("infiltration", 50.0, 100.0, 150.0, 200.0),
        ("mass", 0.5, 1.0, 1.5, 2.0),
    ]
    assert nih.boxes(plain, 512) == []
    (root / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox\na.png,Mass,1,2\n")
    with pytest.raises(DataError, match=r"BBox_List_2017.csv line 2: found a.png,Mass,1,2, expected image"):
        read_folder(root)


def test_nih_counts_what_has_no_partner_and_uses_its_own_lists(tmp_path: Path) -> None:
    root = put_nih(tmp_path, ("a.png", "Mass", 1, 60, "M", "PA"), ("b.png", "Edema", 2, 50, "F", "AP"))
    (root / "images" / "a.jpg").unlink()
    put_image(root / "images" / "stray.jpg")
    (root / "test_list.txt").write_text("b.png\n")
    listing = read_folder(root)
    assert listing.left_out == {ROW_WITHOUT_IMAGE: ("a.png",), IMAGE_WITHOUT_ROW: ("stray",)}
    assert RealRadiographs(root, split="test").keys == ["b"]


def test_nih_names_the_row_that_cannot_be_read_and_the_column_that_is_missing(tmp_path: Path) -> None:
    root = put_nih(tmp_path, ("a.png", "Efusion", 1, 60, "M", "PA"), ("b.png", "Edema", 2, 50, "F", "AP"))
    with pytest.raises(DataError, match=r"Data_Entry_2017.csv line 2: unknown finding 'Efusion'.*--skip-bad"):
        read_folder(root)
    listing = read_folder(root, options=Options(skip_bad=True))
    assert [film.record.key for film in listing.films] == ["b"] and listing.left_out == {BAD_ROW: ("a",)}
    put_table(
        root / "Data_Entry_2017.csv", ["Image Index", "Finding Labels", "Patient ID"], ["b.png", "Edema", 2]
    )
    with pytest.raises(DataError, match=r"no column 'Patient Age', found Image Index, Finding Labels"):
        read_folder(root)


def test_class_folders_say_one_thing_each(tiny_class_folders: Path) -> None:
    assert detect(tiny_class_folders) == ("class_folders", "class folders: effusion, normal")
    listing = read_folder(tiny_class_folders)
    assert listing.findings == ("no_finding", "pleural_effusion")
    by_folder = {film.record.provenance["folder"]: dict(film.record.labels) for film in listing.films}
    assert by_folder == {
        "normal": {"no_finding": 1.0},
        "effusion": {"no_finding": 0.0, "pleural_effusion": 1.0},
    }
    assert len({film.record.key for film in listing.films}) == 24  # film-000 is in both folders
    films = RealRadiographs(tiny_class_folders, findings=["effusion", "mass", "normal"])
    sick, healthy = films.labels[0], films.labels[-1]
    np.testing.assert_array_equal(sick, [1, math.nan, 0])
    np.testing.assert_array_equal(healthy, [0, 0, 1])


def test_class_folders_with_splits(tmp_path: Path) -> None:
    for place in ("train/NORMAL/a", "train/PNEUMONIA/b", "val/NORMAL/c", "test/PNEUMONIA/deeper/d"):
        put_image(tmp_path / f"{place}.jpeg")
    assert detect(tmp_path) == ("class_folders", "class folders: NORMAL, PNEUMONIA in test, train, val")
    assert RealRadiographs(tmp_path).keys == ["d", "a", "b", "c"]
    assert RealRadiographs(tmp_path, split="val").keys == ["c"]
    assert RealRadiographs(tmp_path, split=["train", "validation"]).keys == ["a", "b", "c"]
    with pytest.raises(
        DataError, match=r"no split 'tests'; did you mean 'test'\? splits are test, train, valid"
    ):
        RealRadiographs(tmp_path, split="tests")


def test_class_folders_with_names_of_their_own(tmp_path: Path) -> None:
    for place in ("healthy/a", "sick/b", "odd/c"):
        put_image(tmp_path / f"{place}.png")
    with pytest.raises(DataError, match=r"the folder '(sick|odd)' names no finding.*--name"):
        RealRadiographs(tmp_path)
    films = RealRadiographs(tmp_path, names={"sick": "pneumonia", "odd": None})
    assert films.keys == ["a", "b"] and films.findings == ("no_finding", "pneumonia")
    assert films.left_out == {"folder left out by names": ("c",)}


def test_a_table_with_a_column_a_finding(tmp_path: Path) -> None:
    for study in (1, 2, 3):
        put_image(tmp_path / f"train/patient{study}/study1/view1_frontal.jpg")
    path = "CheXpert-v1.0/train/patient{}/study1/view1_frontal.jpg"
    put_table(
        tmp_path / "train.csv",
        ["Path", "Sex", "Age", "AP/PA", "No Finding", "Pleural Effusion", "Support Devices", "Edema"],
        [path.format(1), "Female", 68, "AP", "1.0", "", "1.0", ""],
        [path.format(2), "Male", 40, "PA", "", "1.0", "0.0", "-1.0"],
        [path.format(3), "Unknown", "", "", "1.0", "", "", ""],
    )
    films = RealRadiographs(tmp_path)
    assert films.format == "csv" and films.reading["image column"] == "Path"
    assert films.findings == ("no_finding", "edema", "pleural_effusion", "support_devices")
    expected = [[0, 0, 0, 1], [0, math.nan, 1, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(films.labels, expected)
    assert (films.sexes, films.ages, films.views) == (
        ["F", "M", None],
        [68.0, 40.0, None],
        ["AP", "PA", None],
    )
    assert films.keys[0] == "train/patient1/study1/view1_frontal"


def test_a_table_with_a_column_that_lists_findings(tmp_path: Path) -> None:
    for name in "abc":
        put_image(tmp_path / f"{name}.png")
    rows = [["a", "Effusion, Mass"], ["b", "Normal"], ["c", "['Edema']"]]
    put_table(tmp_path / "labels.csv", ["image_id", "labels"], *rows)
    unknown = RealRadiographs(tmp_path)
    assert unknown.findings == ("no_finding", "edema", "pleural_effusion", "mass")
    nan = math.nan
    np.testing.assert_array_equal(unknown.labels, [[0, nan, 1, 1], [1, 0, 0, 0], [0, 1, nan, nan]])
    absent = RealRadiographs(tmp_path, unlisted="absent")
    np.testing.assert_array_equal(absent.labels, [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0]])


def test_a_missing_column_is_named_with_the_nearest_and_the_flag(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    put_table(tmp_path / "labels.csv", ["scan", "Effusion", "years"], ["a", 1, 60])
    with pytest.raises(
        DataError, match=r"no column looks like the image's name; columns are scan, Effusion, years"
    ):
        RealRadiographs(tmp_path)
    with pytest.raises(
        DataError, match=r"no column 'scans' for image; did you mean 'scan'\?.*--column image=NAME"
    ):
        RealRadiographs(tmp_path, columns={"image": "scans"})
    films = RealRadiographs(tmp_path, columns={"image": "scan", "age": "years", "oedema": "Effusion"})
    assert films.ages == [60.0] and films.findings == ("no_finding", "edema")
    with pytest.raises(
        UnknownNameError, match=r"unknown column role or finding 'imag'; did you mean 'image'"
    ):
        RealRadiographs(tmp_path, columns={"imag": "scan"})
    put_table(tmp_path / "labels.csv", ["image", "note"], ["a", "fine"])
    with pytest.raises(DataError, match=r"no column holds findings; columns are image, note"):
        RealRadiographs(tmp_path, format="csv")


def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in "abcd":
        put_image(tmp_path / f"{name}.png")
    header, good = ["image", "edema", "no finding", "age"], ["a", 1, 0, 50]
    bad = {
        "label '7'": ["b", 7, 0, 50],
        "contradict": ["b", 1, 1, 50],
        "age 'old'": ["b", 1, 0, "old"],
        "already": good,
    }
    for message, line in bad.items():
        put_table(tmp_path / "labels.csv", header, good, line)
        with pytest.raises(DataError, match=rf"labels.csv line 3: .*{message}.*--skip-bad"):
            RealRadiographs(tmp_path)
        films = RealRadiographs(tmp_path, skip_bad=True)
        assert films.keys == ["a"] and len(films.left_out[BAD_ROW]) == 1


def test_several_tables_must_be_told_apart(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    put_table(tmp_path / "one.csv", ["image", "edema"], ["a", 1])
    put_table(tmp_path / "other.csv", ["image", "edema"], ["elsewhere", 0])
    assert RealRadiographs(tmp_path).reading["labels"] == "one.csv"
    put_table(tmp_path / "two.csv", ["image", "edema"], ["a", 0])
    with pytest.raises(
        DataError, match=r"found one.csv, other.csv, two.csv, expected one table.*--labels-csv"
    ):
        RealRadiographs(tmp_path)
    assert RealRadiographs(tmp_path, labels_csv="two.csv").labels[0, 1] == 0
    with pytest.raises(DataError, match=r"three.csv: no such file \(--labels-csv\)"):
        RealRadiographs(tmp_path, labels_csv="three.csv")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"image,edema,edema\na,1,1\n"])
def test_a_table_that_is_none(tmp_path: Path, content: bytes) -> None:
    put_image(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"labels.csv"):
        RealRadiographs(tmp_path)


def test_folders_that_no_layout_explains(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        RealRadiographs(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"found 0 images and 0 CSV files, expected one of: manifest.json"):
        RealRadiographs(tmp_path)
    with pytest.raises(DataError, match=r"found a file, expected a folder"):
        RealRadiographs(put_image(tmp_path / "a.png"))
    with pytest.raises(UnknownNameError, match=r"unknown format 'nhi'; did you mean 'nih'"):
        RealRadiographs(tmp_path, format="nhi")
    with pytest.raises(DataError, match=r"--labels-csv and --column go with --format csv"):
        RealRadiographs(tmp_path, format="nih", labels_csv="a.csv")


def test_images_are_matched_by_stem_then_by_path(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "y/a.jpg", "y/1.2.840.113.png", ".hidden/b.png", "__MACOSX/c.png"):
        put_image(tmp_path / name)
    paths = find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "x/a.jpg",
        "y/1.2.840.113.png",
        "y/a.jpg",
    ]
    index = ImageIndex(tmp_path, paths)
    assert index.match("data/y/a.png") == tmp_path / "y/a.jpg"
    assert index.match("1.2.840.113") == index.match("1.2.840.113.dcm") == tmp_path / "y/1.2.840.113.png"
    assert index.match("b.png") is None and index.match("") is None
    with pytest.raises(DataError, match=r"'a.png' fits 2 images \(x/a.jpg, y/a.jpg\)"):
        index.match("a.png")


def test_half_a_download_gives_no_patient_the_film_of_another(tmp_path: Path) -> None:
    names = [f"train/patient{number:05d}/study1/view1_frontal.jpg" for number in (1, 2, 3)]
    present = put_image(tmp_path / names[1])
    index = ImageIndex(tmp_path, [present], names)
    assert [index.match(name) for name in names] == [None, present, None]
    moved = put_image(tmp_path / "batch 2" / "patient00003" / "study1" / "view1_frontal.jpg")
    index = ImageIndex(tmp_path, [present, moved], [f"CheXpert/{name}" for name in names])
    assert [index.match(f"CheXpert/{name}") for name in names] == [None, present, moved]
    # A name that no other shares is found wherever its film was moved to.
    assert ImageIndex(tmp_path, [present], names[:1]).match(names[0]) == present


def test_matching_is_quick_where_every_film_has_the_same_name(tmp_path: Path) -> None:
    names = [f"train/patient{number:05d}/study1/view1_frontal.jpg" for number in range(20_000)]
    before = time.process_time()
    index = ImageIndex(tmp_path, [tmp_path / name for name in names[::2]], names)
    found = [index.match(name) for name in names]
    assert sum(path is not None for path in found) == 10_000 and found[7] is None
    assert time.process_time() - before < 3  # comparing each with each would take minutes


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    put_image(tmp_path / "far" / "a.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(root)
    assert find_images(root) == [root / "images" / "a.png"]


def test_values_as_tables_write_them() -> None:
    assert [parse_age(text) for text in ("58", "58.5", "058Y", "", "nan", "411")] == [
        58,
        58.5,
        58,
        None,
        None,
        None,
    ]
    assert [parse_sex(text) for text in ("M", "female", "O", "")] == ["M", "F", None, None]
    views = ("PA", "AP_SUPINE", "LL", "Lateral", "frontal", "")
    assert [parse_view(text) for text in views] == ["PA", "AP", "lateral", "lateral", None, None]
    assert [parse_value(text) for text in ("1.0", "0", "True", "absent")] == [1, 0, 1, 0]
    assert all(math.isnan(parse_value(text)) for text in ("", "-1.0", "nan"))
    assert [split_name(text) for text in ("VAL", "valid", "training", "detector")] == ["validation"] * 2 + [
        "train",
        "detector",
    ]
    for parse in (parse_age, parse_value):
        with pytest.raises(DataError, match="found the"):
            parse("fifty")
