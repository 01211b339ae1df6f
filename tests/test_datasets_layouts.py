"""Public layouts, each written here as it is published: counts, labels, views, splits and quirks."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_samples import put_dicom
from layout_samples import CHEXPERT, chexpert_row, put_chexpert, put_image, put_mimic, put_padchest, put_table

from synthaug.datasets.formats import (
    FORMATS,
    Listing,
    Options,
    chexpert,
    detect,
    explain,
    padchest,
    read_folder,
    vindr,
)
from synthaug.errors import DataError, LabelError, UnknownNameError
from synthaug.findings import FINDINGS
from synthaug.record import Record


def records(listing: Listing) -> dict[str, Record]:
    return {film.record.key: film.record for film in listing.films}


def known(record: Record) -> dict[str, float]:
    """The labels that are not unknown."""
    return {finding: value for finding, value in record.labels.items() if not math.isnan(value)}


def present(record: Record) -> set[str]:
    return {finding for finding, value in record.labels.items() if value == 1}


def test_chexpert_small(tmp_path: Path) -> None:
    root = put_chexpert(tmp_path)
    assert detect(root) == ("chexpert", "CheXpert: train.csv, valid.csv")
    found = records(read_folder(root))
    devices, opacity, lateral, normal, valid = found.values()
    assert next(iter(found)) == "train/patient00001/study1/view1_frontal"
    assert known(devices) == {f: float(f == "support_devices") for f in chexpert.FINDINGS}
    assert known(opacity) == {"no_finding": 0, "pleural_effusion": 1, "pneumothorax": 0}
    assert known(normal) == {f: float(f == "no_finding") for f in chexpert.FINDINGS}
    assert [r.view for r in found.values()] == ["AP", "PA", "lateral", "AP", "AP"]
    assert [r.age for r in found.values()] == [68, 87, 87, None, 73]
    assert [r.sex for r in found.values()] == ["F", "F", "F", None, "M"]
    assert lateral.patient == opacity.patient == "patient00002" and lateral.provenance["study"] == "study2"
    assert [r.provenance["split"] for r in found.values()] == ["train"] * 4 + ["validation"]
    assert present(valid) == {"cardiomegaly"}


@pytest.mark.parametrize(("uncertain", "value"), [("unknown", math.nan), ("zeros", 0.0), ("ones", 1.0)])
def test_what_chexpert_is_uncertain_of_is_the_readers_choice(
    tmp_path: Path, uncertain: str, value: float
) -> None:
    root = put_chexpert(tmp_path)
    listing = read_folder(root, options=Options(uncertain=uncertain))  # type: ignore[arg-type]
    label = records(listing)["train/patient00002/study2/view1_frontal"].labels["lung_opacity"]
    assert label == value or (math.isnan(label) and math.isnan(value))
    assert listing.reading["uncertain (-1)"] == uncertain
    with pytest.raises(UnknownNameError, match="unknown uncertain 'one'; did you mean 'ones'"):
        Options(uncertain="one")  # type: ignore[arg-type]


def test_the_full_chexpert_lies_in_batches(tmp_path: Path) -> None:
    root = put_chexpert(tmp_path / "small")
    full = tmp_path / "full"
    shutil.copytree(root / "train", full / "CheXpert-v1.0 batch 2 (train 1)")
    shutil.copytree(root / "valid", full / "CheXpert-v1.0 batch 1 (validate & csv)" / "valid")
    for name in ("train.csv", "valid.csv"):
        text = (root / name).read_text().replace("CheXpert-v1.0-small", "CheXpert-v1.0")
        (full / "CheXpert-v1.0 batch 1 (validate & csv)" / name).write_text(text)
    listing = read_folder(full)
    assert listing.format == "chexpert" and len(listing.films) == 5 and not listing.left_out
    assert "batch 2" in str(listing.films[0].path)


def test_the_later_test_set_of_chexpert(tmp_path: Path) -> None:
    put_table(
        tmp_path / "test_labels.csv", ("Path", *CHEXPERT),
        ["test/patient64741/study1/view1_frontal.jpg", *chexpert_row({"Edema": "1.0"})],
        ["test/patient64742/study1/view2_lateral.jpg", *chexpert_row({"No Finding": "1.0"})],
    )  # fmt: skip
    for name in ("patient64741/study1/view1_frontal", "patient64742/study1/view2_lateral"):
        put_image(tmp_path / "test" / f"{name}.jpg")
    films = [film.record for film in read_folder(tmp_path).films]
    assert [(r.view, r.provenance["split"]) for r in films] == [(None, "test"), ("lateral", "test")]


def test_chexpert_plus_joins_labels_and_reports(tmp_path: Path) -> None:
    header = (
        "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id",
        "patient_report_date_order", "report", "section_narrative", "section_clinical_history",
        "section_history", "section_comparison", "section_technique", "section_procedure_comments",
        "section_findings", "section_impression", "section_end_of_impression", "section_summary",
        "section_accession_number", "age", "sex", "race", "ethnicity", "interpreter_needed",
        "insurance_type", "recent_bmi", "deceased", "split",
    )  # fmt: skip
    rows = []
    for patient, view, ap_pa, split, impression in (
        ("patient42142", "frontal", "AP", "train", "1. SMALL LEFT PLEURAL EFFUSION,\nUNCHANGED."),
        ("patient42142", "lateral", "", "train", ""),
        ("patient64541", "frontal", "PA", "valid", "NORMAL CHEST."),
    ):
        path = f"{split}/{patient}/study5/view1_{view}.jpg"
        facts = {
            "path_to_image": path, "frontal_lateral": view.title(), "ap_pa": ap_pa, "age": "61.0",
            "deid_patient_id": patient, "sex": "Male", "section_impression": impression, "split": split,
        }  # fmt: skip
        rows.append([facts.get(column, "") for column in header])
        put_image(tmp_path / "PNG" / path.replace(".jpg", ".png"))
    put_table(tmp_path / "df_chexpert_plus_240401.csv", header, *rows)
    assert not known(read_folder(tmp_path).films[0].record)
    empty = dict.fromkeys(CHEXPERT)
    labels = [
        {"path_to_image": rows[0][0], **empty, "Pleural Effusion": 1.0, "Edema": -1.0},
        {"path_to_image": rows[2][0], **empty, "No Finding": 1.0},
    ]
    (tmp_path / "chexbert_labels").mkdir()
    file = tmp_path / "chexbert_labels" / "impression_fixed.json"
    file.write_text("".join(json.dumps(line) + "\n" for line in labels))
    assert detect(tmp_path) == ("chexpert_plus", "CheXpert Plus: df_chexpert_plus_240401.csv")
    listing = read_folder(tmp_path)
    effusion, lateral, normal = (film.record for film in listing.films)
    assert listing.reading["labels"] == "chexbert_labels/impression_fixed.json"
    assert known(effusion) == {"no_finding": 0, "pleural_effusion": 1} and not known(lateral)
    assert present(normal) == {"no_finding"} and lateral.view == "lateral" and effusion.view == "AP"
    assert effusion.provenance["report"]["impression"].startswith("1. SMALL LEFT")
    assert (
        normal.provenance["split"] == "validation" and effusion.patient == lateral.patient == "patient42142"
    )
    file.write_text(json.dumps(labels[0]) + "\n{\n")
    with pytest.raises(DataError, match=r"impression_fixed.json line 2: expected one JSON object"):
        read_folder(tmp_path)


@pytest.mark.parametrize("ending", [".csv.gz", ".csv"])
def test_mimic_joins_its_tables(tmp_path: Path, ending: str) -> None:
    root = put_mimic(tmp_path, ending)
    assert explain(root, "mimic").startswith(f"MIMIC-CXR-JPG: mimic-cxr-2.0.0-metadata{ending}")
    listing = read_folder(root)
    normal, lateral, sick, unlabelled = (film.record for film in listing.films)
    assert present(normal) == {"no_finding"} and normal.labels == lateral.labels
    # Edema: uncertain for one, present for the other: the first labeller speaks; pneumonia: they disagree.
    assert known(sick) == {"no_finding": 0, "cardiomegaly": 1, "pleural_effusion": 1}
    assert not known(unlabelled) and unlabelled.view == "PA"
    assert [r.view for r in (normal, lateral, sick)] == ["PA", "lateral", "AP"]
    splits = [film.record.provenance["split"] for film in listing.films]
    assert splits == ["train", "train", "validation", "test"]
    assert (sick.patient, sick.provenance["study"]) == ("10000032", "53189527")
    ones = read_folder(root, options=Options(uncertain="ones")).films[2].record
    assert present(ones) == {"cardiomegaly", "edema", "pleural_effusion", "pneumonia"}
    for name in ("chexpert", "negbio"):
        (root / f"mimic-cxr-2.0.0-{name}{ending}").unlink()
    with pytest.raises(DataError, match=r"no mimic-cxr-2.\*-chexpert or -negbio.csv or .csv.gz"):
        read_folder(root)


def test_a_broken_gzip_is_named(tmp_path: Path) -> None:
    root = put_mimic(tmp_path)
    path = root / "mimic-cxr-2.0.0-split.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"split.csv.gz: cannot be read as a CSV table"):
        read_folder(root)


def test_padchest(tmp_path: Path) -> None:
    root = put_padchest(tmp_path)
    assert detect(root) == ("padchest", "PadChest: PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv")
    listing = read_folder(root)
    chronic, normal, unchanged, spanish, empty = (film.record for film in listing.films)
    assert present(chronic) == {"fibrosis", "kyphosis"} and len(known(chronic)) == len(padchest.FINDINGS)
    assert present(normal) == {"no_finding"} and not known(unchanged) and not known(empty)
    assert present(spanish) == {"pleural_effusion", "cardiomegaly"}
    assert [film.record.view for film in listing.films] == ["PA", "lateral", "AP", "PA", "PA"]
    assert [film.record.age for film in listing.films] == [76, 58, 2, 82, 82]
    assert normal.provenance["report"]["language"] == "es" and normal.patient != chronic.patient
    assert [(reason, len(keys)) for reason, keys in listing.left_out.items()] == [("projection EXCLUDE", 1)]


def test_every_padchest_term_has_one_finding_of_the_vocabulary() -> None:
    terms = [term for names in padchest.TERMS.values() for term in names]
    assert len(set(terms)) == len(terms) and set(padchest.TERMS) <= set(FINDINGS)
    assert all(term == " ".join(term.lower().split()) for term in terms)
    assert present(Record("a", padchest.labels_of("['Rib  fracture', 'nodule']"))) == {"fracture", "nodule"}


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


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("split", [False, True])
def test_a_hugging_face_image_folder(tmp_path: Path, kind: str, split: bool) -> None:
    for part in ("train", "validation") if split else ("",):
        folder = tmp_path / part
        for name in ("0001.png", "0002.png"):
            put_image(folder / name)
        rows = [
            {"file_name": "0001.png", "text": "effusion", "pleural_effusion": 1, "edema": None, "view": "PA"},
            {
                "file_name": "0002.png",
                "text": "normal",
                "pleural_effusion": 0,
                "edema": 1.0,
                "view": "lateral",
            },
        ]
        if kind == "jsonl":
            (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            put_table(folder / "metadata.csv", list(rows[0]), *([*row.values()] for row in rows))
    listing = read_folder(tmp_path)
    assert listing.format == "hf_folder" and len(listing.films) == (4 if split else 2)
    a, b = (film.record for film in listing.films[:2])
    assert known(a) == {"pleural_effusion": 1} and known(b) == {"edema": 1, "pleural_effusion": 0}
    assert (a.view, b.view) == ("PA", "lateral")
    splits = [film.record.provenance.get("split") for film in listing.films]
    assert splits == (["train"] * 2 + ["validation"] * 2 if split else [None, None])


def test_a_json_list_of_findings(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "labels": ["Edema", "Mass"]}\n')
    assert present(read_folder(tmp_path).films[0].record) == {"edema", "mass"}
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n[1]\n')
    with pytest.raises(DataError, match=r"metadata\.jsonl: expected one JSON object a line"):
        read_folder(tmp_path)


def test_a_folder_of_dicom_without_labels(tmp_path: Path) -> None:
    put_dicom(
        tmp_path / "PAT01" / "IM000001", PatientID="p1", PatientAge="034Y", PatientSex="F", ViewPosition="PA"
    )
    put_dicom(tmp_path / "PAT01" / "IM000002", PatientID="p1", ViewPosition="LL", BurnedInAnnotation="YES")
    put_dicom(tmp_path / "PAT02" / "1.2.840.1", PatientID="p2", Modality="CT")
    put_dicom(tmp_path / "PAT02" / "1.2.840.2", NumberOfFrames=2)
    put_dicom(tmp_path / "PAT02" / "1.2.840.3.dcm", PatientID="p2", Modality="DX")
    (tmp_path / "DICOMDIR").write_bytes(b"not one")
    assert detect(tmp_path) == ("dicom", "DICOM: PAT01/IM000001 and others")
    listing = read_folder(tmp_path)
    a, b, c = (film.record for film in listing.films)
    assert (a.patient, a.age, a.sex, a.view, a.labels) == ("p1", 34, "F", "PA", {})
    assert b.view == "lateral" and b.provenance["burned_in_annotation"] is True and c.patient == "p2"
    assert listing.reading == {"burned-in annotation": "1 films say yes, 2 do not say"}
    assert {reason: len(keys) for reason, keys in listing.left_out.items()} == {
        "modality CT": 1,
        "several frames": 1,
    }


def test_a_table_of_labels_beside_dicom(tmp_path: Path) -> None:
    put_dicom(tmp_path / "scans" / "a.dcm", PatientAge="070Y", PatientSex="M", ViewPosition="AP")
    put_table(tmp_path / "labels.csv", ("image", "edema", "sex"), ["a", 1, "F"])
    listing = read_folder(tmp_path)
    (film,) = listing.films
    assert listing.format == "csv" and present(film.record) == {"edema"}
    assert (film.record.age, film.record.sex, film.record.view) == (70, "F", "AP")  # the table goes first


def test_every_layout_says_what_it_looks_for_and_how_the_choice_was_made(tmp_path: Path) -> None:
    assert all(layout.sign for layout in FORMATS.values())
    told = explain(put_chexpert(tmp_path), "chexpert")
    before = "shards, nih, chexpert_plus, mimic, padchest, vindr, rsna, siim, openi"
    assert told == f"CheXpert: train.csv, valid.csv; no sign of {before}"
    assert explain(tmp_path, "csv") == "read as csv, as asked"


def test_no_layout_reads_an_empty_folder(tmp_path: Path) -> None:
    for name, layout in FORMATS.items():
        assert layout.detect(tmp_path) is None, name
        with pytest.raises(DataError, match=str(tmp_path)):
            layout.read(tmp_path, None)


def test_a_table_of_another_data_set_is_told_apart(tmp_path: Path) -> None:
    root = put_chexpert(tmp_path)
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "valid")
    put_image(root / "images" / "00000001_000.png")
    with pytest.raises(
        DataError, match=r"names 5 images such as .*view1_frontal.jpg and none of them.*00000001_000.png"
    ):
        read_folder(root)


def test_one_reader_who_contradicts_himself(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="contradict"):
        vindr.merged([{"no_finding": 1.0, "edema": 1.0}], "majority")
