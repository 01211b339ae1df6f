"""Hospital and general layouts, written here as they are published: CheXpert, MIMIC-CXR-JPG, PadChest, Hugging Face, DICOM."""

import json
import math
import shutil
from pathlib import Path

import pytest
from dicom_samples import put_dicom
from layout_samples import CHEXPERT, chexpert_row, put_chexpert, put_image, put_mimic, put_padchest, put_table
from listed import known, present, records

from synthaug.datasets.formats import (
    FORMATS,
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
