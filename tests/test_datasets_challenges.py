"""Challenge and collection layouts, written here as they are published: VinDr-CXR, RSNA, SIIM, OpenI, COVID, MedMNIST."""

from pathlib import Path

import numpy as np
import pytest
from dicom_samples import put_dicom
from layout_samples import put_image, put_table
from listed import known, present

from synthaug.datasets.formats import (
    Options,
    detect,
    read_folder,
    vindr,
)
from synthaug.errors import DataError

VINDR = vindr.COLUMNS


def put_vindr(root: Path) -> Path:
    """VinDr-CXR on PhysioNet: two training films of three readers each, one test film, boxes."""

    def cells(*found: str) -> list[int]:
        return [int(name in found) for name in VINDR]

    put_table(
        root / "annotations" / "image_labels_train.csv", ("image_id", "rad_id", *VINDR),
        ["000434271f63a053c4128a0ba6352c7f", "R6", *cells("No finding")],
        ["000434271f63a053c4128a0ba6352c7f", "R2", *cells("No finding")],
        ["000434271f63a053c4128a0ba6352c7f", "R3", *cells("Nodule/Mass")],
        ["0005e8e3701dfb1dd93d53e2ff537b6e", "R10", *cells("Enlarged PA", "Infiltration")],
        ["0005e8e3701dfb1dd93d53e2ff537b6e", "R8", *cells("Infiltration", "ILD")],
        ["0005e8e3701dfb1dd93d53e2ff537b6e", "R9", *cells("Infiltration", "Enlarged PA")],
    )  # fmt: skip
    put_table(
        root / "annotations" / "image_labels_test.csv", ("image_id", *VINDR),
        ["002a34c58c5b758217ed1f584ccbcfe9", *cells("COPD", "Pneumonia")],
    )  # fmt: skip
    put_table(
        root / "annotations" / "annotations_train.csv",
        ("image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max"),
        ["000434271f63a053c4128a0ba6352c7f", "R6", "No finding", "", "", "", ""],
        ["0005e8e3701dfb1dd93d53e2ff537b6e", "R10", "Infiltration", 900.5, 587.25, 1205.5, 888.25],
    )  # fmt: skip
    for part, name in (
        ("train", "000434271f63a053c4128a0ba6352c7f"),
        ("train", "0005e8e3701dfb1dd93d53e2ff537b6e"),
        ("test", "002a34c58c5b758217ed1f584ccbcfe9"),
    ):
        put_dicom(root / part / f"{name}.dicom", PatientSex="O", PatientAge="061Y", PatientID=name)
    return root


@pytest.mark.parametrize(
    ("rule", "first", "second"),
    [
        ("majority", {"no_finding"}, {"infiltration", "enlarged_pulmonary_artery"}),
        ("any", {"lung_lesion"}, {"infiltration", "enlarged_pulmonary_artery", "interstitial_lung_disease"}),
        ("all", {"no_finding"}, {"infiltration"}),
    ],
)
def test_vindr_merges_its_readers(tmp_path: Path, rule: str, first: set[str], second: set[str]) -> None:
    root = put_vindr(tmp_path)
    assert detect(root) == (
        "vindr", "VinDr-CXR: annotations/image_labels_train.csv, annotations/image_labels_test.csv"
    )  # fmt: skip
    listing = read_folder(root, options=Options(readers=rule))  # type: ignore[arg-type]
    a, b, test = (film.record for film in listing.films)
    assert (present(a), present(b), present(test)) == (first, second, {"copd", "pneumonia"})
    assert len(known(a)) == len(VINDR) and not listing.left_out
    assert (a.view, a.age, a.sex, a.patient) == ("PA", 61, None, None)
    assert [r.provenance["split"] for r in (a, b, test)] == ["train", "train", "test"]
    box = {"finding": "infiltration", "x": 900.5, "y": 587.25, "w": 305.0, "h": 301.0, "reader": "R10"}
    assert b.provenance["boxes"] == [box] and "boxes" not in a.provenance


def test_vindr_of_kaggle_has_a_line_a_box(tmp_path: Path) -> None:
    put_table(
        tmp_path / "train.csv",
        ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"),
        ["50a418190bc3fb1ef1633bf9678929b3", "No finding", 14, "R11", "", "", "", ""],
        ["50a418190bc3fb1ef1633bf9678929b3", "No finding", 14, "R2", "", "", "", ""],
        ["21a10246a5ec7af151081d0cd6d65dc9", "Cardiomegaly", 3, "R10", 691, 1375, 1653, 1831],
        ["21a10246a5ec7af151081d0cd6d65dc9", "Aortic enlargement", 0, "R10", 1264, 743, 1611, 1019],
        ["21a10246a5ec7af151081d0cd6d65dc9", "Cardiomegaly", 3, "R8", 627, 1357, 1729, 1840],
    )  # fmt: skip
    for name in ("50a418190bc3fb1ef1633bf9678929b3", "21a10246a5ec7af151081d0cd6d65dc9"):
        put_image(tmp_path / "train" / f"{name}.png")
    listing = read_folder(tmp_path)
    normal, sick = (film.record for film in listing.films)
    assert listing.format == "vindr" and present(normal) == {"no_finding"}
    assert present(sick) == {"cardiomegaly"} and len(sick.provenance["boxes"]) == 3


def put_rsna(root: Path) -> Path:
    films = {
        "0004cfab-14fd-4e49-80ba-63a80b6bddd6": ("No Lung Opacity / Not Normal", []),
        "003d8fa0-6bf1-40ed-b54c-ac657f8495c5": ("Normal", []),
        "00436515-870c-4b36-a041-de91049b9ab4": (
            "Lung Opacity", [(264.0, 152.0, 213.0, 379.0), (562.0, 152.0, 256.0, 453.0)]
        ),
    }  # fmt: skip
    labels, details = [], []
    for name, (kind, boxes) in films.items():
        labels += [[name, *box, 1] for box in boxes] or [[name, "", "", "", "", 0]]
        details += [[name, kind]] * max(1, len(boxes))
        put_dicom(
            root / "stage_2_train_images" / f"{name}.dcm", PatientID=name, PatientAge="51", PatientSex="F",
            ViewPosition="PA",
        )  # fmt: skip
    put_table(
        root / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), *labels
    )
    put_table(root / "stage_2_detailed_class_info.csv", ("patientId", "class"), *details)
    return root


def test_rsna(tmp_path: Path) -> None:
    root = put_rsna(tmp_path)
    put_dicom(root / "stage_2_test_images" / "0000a175-0e68-4ca4-b1af-167204a7e0bc.dcm")
    assert detect(root) == ("rsna", "RSNA Pneumonia: stage_2_train_labels.csv")
    listing = read_folder(root)
    other, normal, opacity = (film.record for film in listing.films)
    assert known(other) == {"no_finding": 0, "lung_opacity": 0, "pneumonia": 0}
    assert present(normal) == {"no_finding"} and present(opacity) == {"lung_opacity", "pneumonia"}
    assert [box["x"] for box in opacity.provenance["boxes"]] == [264, 562]
    assert (normal.view, normal.age, normal.sex, normal.patient) == ("PA", 51, "F", None)
    assert sum(map(len, listing.left_out.values())) == 1  # the test film
    (root / "stage_2_detailed_class_info.csv").unlink()
    assert "no_finding" not in known(read_folder(root).films[1].record)
    table = root / "stage_2_train_labels.csv"
    table.write_text(table.read_text() + "003d8fa0-6bf1-40ed-b54c-ac657f8495c5,1,2,3,4,1\n")
    with pytest.raises(DataError, match=r"found Target 0, 1, expected 0 or 1 on all its lines.*--skip-bad"):
        read_folder(root)


@pytest.mark.parametrize("name", ["train-rle.csv", "stage_2_train.csv"])
def test_siim(tmp_path: Path, name: str) -> None:
    uid = "1.2.276.0.7230010.3.1.4.8323329.{}.1517875161.519027"
    pixels = " EncodedPixels" if name == "train-rle.csv" else "EncodedPixels"
    put_table(
        tmp_path / name, ("ImageId", pixels),
        [uid.format(6904), " -1"], [uid.format(13666), " 557374 2 1015 8"], [uid.format(13666), " 1 2 3"],
    )  # fmt: skip
    for number in (6904, 13666):
        place = tmp_path / "dicom-images-train" / uid.format(f"{number}.1") / uid.format(f"{number}.2")
        put_dicom(place / f"{uid.format(number)}.dcm", PatientAge="45", PatientSex="M", ViewPosition="AP")
    assert detect(tmp_path) == ("siim", f"SIIM-ACR Pneumothorax: {name}")
    none, some = (film.record for film in read_folder(tmp_path).films)
    assert known(none) == {"pneumothorax": 0} and present(some) == {"pneumothorax"}
    assert (some.provenance["masks"], some.view, some.age, some.sex) == (2, "AP", 45, "M")


def put_openi(root: Path) -> Path:
    put_table(
        root / "indiana_reports.csv",
        ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"),
        [1, "normal", "normal", "Xray Chest PA and Lateral", "Positive TB test", "None.",
         "The cardiac silhouette is normal.", "Normal chest x-XXXX."],
        [2, "Cardiomegaly/borderline;Pulmonary Artery/enlarged", "Cardiomegaly;Pulmonary Artery",
         "Chest, 2 views", "Preop", "", "Borderline cardiomegaly.", "No acute pulmonary findings."],
        [3, "No Indexing", "No Indexing", "Xray Chest", "", "", "", "Limited."],
    )  # fmt: skip
    put_table(
        root / "indiana_projections.csv", ("uid", "filename", "projection"),
        [1, "1_IM-0001-4001.dcm.png", "Frontal"], [1, "1_IM-0001-3001.dcm.png", "Lateral"],
        [2, "2_IM-0652-1001.dcm.png", "Frontal"], [3, "3_IM-1384-1001.dcm.png", "Frontal"],
    )  # fmt: skip
    for name in ("1_IM-0001-4001", "1_IM-0001-3001", "2_IM-0652-1001", "3_IM-1384-1001"):
        put_image(root / "images" / "images_normalized" / f"{name}.dcm.png")
    return root


def test_openi_reports_are_kept(tmp_path: Path) -> None:
    root = put_openi(tmp_path)
    assert detect(root)[0] == "openi"  # type: ignore[index]
    normal, lateral, heart, unindexed = (film.record for film in read_folder(root).films)
    assert present(normal) == {"no_finding"} and normal.patient == lateral.patient == "1"
    assert (normal.view, lateral.view) == (None, "lateral")
    assert present(heart) == {"cardiomegaly"} and heart.labels["no_finding"] == 0 and not known(unindexed)
    assert heart.provenance["report"] == {
        "findings": "Borderline cardiomegaly.", "impression": "No acute pulmonary findings."
    }  # fmt: skip


COVID = (
    "patientid", "offset", "sex", "age", "finding", "RT_PCR_positive", "survival", "intubated",
    "intubation_present", "went_icu", "in_icu", "needed_supplemental_O2", "extubated", "temperature",
    "pO2_saturation", "leukocyte_count", "neutrophil_count", "lymphocyte_count", "view", "modality", "date",
    "location", "folder", "filename", "doi", "url", "license", "clinical_notes", "other_notes", "",
)  # fmt: skip


def test_covid_collections(tmp_path: Path) -> None:
    def row(**values: object) -> list[object]:
        return [values.get(column, "") for column in COVID]

    put_table(
        tmp_path / "metadata.csv", COVID,
        row(patientid="2", sex="M", age="65", finding="Pneumonia/Viral/COVID-19", view="PA", modality="X-ray",
            filename="auntminnie-a-2020_01_28.jpeg", clinical_notes="On January 22."),
        row(patientid="3", finding="No Finding", view="L", modality="X-ray", filename="b.png"),
        row(patientid="4", finding="todo", view="AP Supine", modality="X-ray", filename="c.png"),
        row(patientid="5", finding="Pneumonia", view="Axial", modality="CT", filename="d.jpg"),
        row(patientid="6", finding="Tuberculosis", view="PA", modality="X-ray", filename="gone.jpg"),
    )  # fmt: skip
    for name in ("auntminnie-a-2020_01_28.jpeg", "b.png", "c.png", "d.jpg"):
        put_image(tmp_path / "images" / name)
    assert detect(tmp_path) == ("covid", "COVID-19 collection: metadata.csv")
    listing = read_folder(tmp_path)
    covid, normal, todo = (film.record for film in listing.films)
    assert known(covid) == {"no_finding": 0, "pneumonia": 1, "covid_19": 1} and (covid.age, covid.sex) == (
        65,
        "M",
    )
    assert present(normal) == {"no_finding"} and not known(todo)
    assert [r.view for r in (covid, normal, todo)] == ["PA", "lateral", "AP"]
    assert {reason: len(keys) for reason, keys in listing.left_out.items()} == {
        "label row without an image": 1, "modality CT": 1
    }  # fmt: skip


def test_figure_1_names_its_films_after_patients(tmp_path: Path) -> None:
    header = ("patientid", "offset", "sex", "age", "finding", "survival", "temperature", "pO2_saturation",
              "view", "modality", "artifacts/distortion", "notes")  # fmt: skip
    put_table(
        tmp_path / "metadata.csv", header,
        ["COVID-00001", "", "F", 45, "COVID-19", "", "", "", "AP", "X-ray", "", ""],
    )  # fmt: skip
    put_image(tmp_path / "images" / "COVID-00001.jpg")
    (film,) = read_folder(tmp_path).films
    assert present(film.record) == {"covid_19"} and film.record.patient == "COVID-00001"


def put_medmnist(root: Path, kind: str = "pneumonia", size: int = 28) -> dict[str, np.ndarray]:
    """MedMNIST's arrays; labels are (n, 1) or (n, 14), uint8."""
    rng = np.random.default_rng(size)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, size, size), np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (count, 1 if kind == "pneumonia" else 14)).astype(
            np.uint8
        )
    np.savez_compressed(root / f"{kind}mnist{'' if size == 28 else f'_{size}'}.npz", **arrays)
    return arrays


@pytest.mark.parametrize(("kind", "size"), [("pneumonia", 28), ("pneumonia", 224), ("chest", 64)])
def test_medmnist(tmp_path: Path, kind: str, size: int) -> None:
    from synthaug.images import read

    arrays = put_medmnist(tmp_path, kind, size)
    listing = read_folder(tmp_path)
    assert listing.format == "medmnist" and len(listing.films) == 10
    assert [f.record.provenance["split"] for f in listing.films] == ["train"] * 5 + ["validation"] * 2 + [
        "test"
    ] * 3
    for place, film in enumerate(listing.films):
        split, number = [("train", 0), ("val", 5), ("test", 7)][(place > 4) + (place > 6)]
        np.testing.assert_array_equal(read(film.source()), arrays[f"{split}_images"][place - number])
        row = arrays[f"{split}_labels"][place - number]
        assert film.record.labels["no_finding"] == float(not row.any())
        assert film.record.labels["pneumonia"] == row[0 if kind == "pneumonia" else 6]


def test_medmnist_takes_the_largest_and_refuses_what_it_is_not(tmp_path: Path) -> None:
    put_medmnist(tmp_path)
    put_medmnist(tmp_path, size=64)
    listing = read_folder(tmp_path)
    assert listing.reading == {"archive": "pneumoniamnist_64.npz", "passed over": "pneumoniamnist.npz"}
    path = tmp_path / "pneumoniamnist_64.npz"
    for arrays, message in (
        ({"train_images": np.zeros((2, 64, 64, 3), np.uint8), "train_labels": np.zeros((2, 1), np.uint8)}, "expected grey"),
        ({"train_labels": np.array([[None]])}, "train_labels object"),
        ({"train_labels": np.zeros((2, 1), np.uint8)}, "train_images cannot be read"),
        ({"train_images": np.zeros((3, 64, 64), np.uint8), "train_labels": np.full((3, 1), 2)}, "for 3 images, expected 3 x 1"),
    ):  # fmt: skip
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=f"pneumoniamnist_64.npz: .*{message}"):
            read_folder(tmp_path)
