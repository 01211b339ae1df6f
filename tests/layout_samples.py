"""Writing small data sets in public layouts: their columns, folders and quirks."""

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture", "Support Devices",
)  # fmt: skip
# The order of MIMIC-CXR-JPG's labellers is alphabetical.
MIMIC = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
    "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
)  # fmt: skip


def put_image(path: Path, value: int = 100, depth: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), value, depth)).save(path)
    return path


def put_table(path: Path, header: Sequence[str], *rows: Sequence[object]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def chexpert_row(labels: dict[str, object], columns: Sequence[str] = CHEXPERT) -> list[object]:
    """The label cells of one line, empty where nothing is said."""
    return [labels.get(column, "") for column in columns]


def put_chexpert(root: Path) -> Path:
    """CheXpert-v1.0-small: three patients of train, one of valid; one lateral film, one of unknown sex."""
    facts = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
    small = "CheXpert-v1.0-small"
    train = [
        ("train/patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP",
         {"No Finding": "1.0", "Support Devices": "1.0"}),
        ("train/patient00002/study2/view1_frontal.jpg", "Female", 87, "Frontal", "PA",
         {"Lung Opacity": "-1.0", "Pneumothorax": "0.0", "Pleural Effusion": "1.0"}),
        ("train/patient00002/study2/view2_lateral.jpg", "Female", 87, "Lateral", "", {"Fracture": "1.0"}),
        ("train/patient00003/study1/view1_frontal.jpg", "Unknown", 0, "Frontal", "AP", {"No Finding": "1.0"}),
    ]  # fmt: skip
    valid = [
        ("valid/patient64541/study1/view1_frontal.jpg", "Male", 73, "Frontal", "AP",
         dict.fromkeys(CHEXPERT, "0.0") | {"Cardiomegaly": "1.0"}),
    ]  # fmt: skip
    for name, rows in (("train.csv", train), ("valid.csv", valid)):
        lines = [[f"{small}/{path}", *told, *chexpert_row(labels)] for path, *told, labels in rows]
        put_table(root / name, (*facts, *CHEXPERT), *lines)
        for path, *_ in rows:
            put_image(root / path)
    return root


def put_mimic(root: Path, ending: str = ".csv.gz") -> Path:
    """MIMIC-CXR-JPG 2.0.0: two patients, three studies, four films; the third study has no labels."""
    films = [
        ("02aa804e-bde0afdd", 10000032, 50414267, "PA", "postero-anterior", "train"),
        ("174413ec-4ec4c1f7", 10000032, 50414267, "LATERAL", "lateral", "train"),
        ("2a2277a9-b0ded155", 10000032, 53189527, "AP", "antero-posterior", "validate"),
        ("e084de3b-be89b11e", 10000764, 57375967, "", "postero-anterior", "test"),
    ]
    header = (
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows",
        "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning",
        "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning",
    )  # fmt: skip
    start = root / "mimic-cxr-2.0.0"
    put_table(
        Path(f"{start}-metadata{ending}"), header,
        *([f, p, s, "CHEST (PA AND LAT)", view, 3056, 2544, 21800506, 213014.531, "CHEST (PA AND LAT)",
           meaning, "Erect"] for f, p, s, view, meaning, _ in films),
    )  # fmt: skip
    put_table(
        Path(f"{start}-split{ending}"), ("dicom_id", "study_id", "subject_id", "split"),
        *([f, s, p, split] for f, p, s, _, _, split in films),
    )  # fmt: skip
    said = {
        "chexpert": [
            (10000032, 50414267, {"No Finding": "1.0"}),
            (10000032, 53189527, {"Edema": "-1.0", "Pleural Effusion": "1.0", "Pneumonia": "0.0"}),
        ],
        "negbio": [
            (10000032, 50414267, {"No Finding": "1.0"}),
            (10000032, 53189527, {"Edema": "1.0", "Pneumonia": "1.0", "Cardiomegaly": "1.0"}),
        ],
    }
    for labeller, rows in said.items():
        lines = [[patient, study, *chexpert_row(labels, MIMIC)] for patient, study, labels in rows]
        put_table(Path(f"{start}-{labeller}{ending}"), ("subject_id", "study_id", *MIMIC), *lines)
    for film, patient, study, *_ in films:
        put_image(root / "files" / f"p{str(patient)[:2]}" / f"p{patient}" / f"s{study}" / f"{film}.jpg")
    return root


PADCHEST_COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM",
    "Manufacturer_DICOM", "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM",
    "PixelAspectRatio_DICOM", "SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM",
    "WindowWidth_DICOM", "Rows_DICOM", "Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM",
    "ExposureInuAs_DICOM", "ExposureTime", "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel",
    "Labels", "Localizations", "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
)  # fmt: skip


def put_padchest(root: Path) -> Path:
    """PadChest: 16-bit films in numbered folders, labels as Python lists, one line without labels."""
    films = [
        ("20536686640136348236148679891455886468_k6ga29.png", 0, 20140915, "1938.0", "F", "PA",
         "['pulmonary fibrosis', 'chronic changes', 'kyphosis', ' ']"),
        ("135803415504923515076821959678074435083_fzis7b.png", 0, 20150914, "1957.0", "M", "L", "['normal']"),
        ("113855343774216031107737439268243531979_3k951l.png", 1, 20150316, "2013.0", "M", "AP_horizontal",
         "['unchanged']"),
        ("50783093527901818115970441560819138850_x2nhz7.png", 1, 20151124, "", "", "EXCLUDE", "['exclude']"),
        ("90951018839226133921096137310440563587_1p5gnv.png", 2, 20130502, "1931.0", "F", "PA",
         "['derrame pleural', 'cardiomegalia']"),
        ("31134201154894893571219062481398116073_wl8tte.png", 2, 20130502, "1931.0", "F", "PA", ""),
    ]  # fmt: skip
    lines = []
    for number, (name, folder, date, birth, sex, projection, labels) in enumerate(films):
        row = dict.fromkeys(PADCHEST_COLUMNS, "") | {
            "": number, "ImageID": name, "ImageDir": folder, "StudyDate_DICOM": date, "StudyID": name[:20],
            "PatientID": 8 * 10**37 + number, "PatientBirth": birth, "PatientSex_DICOM": sex,
            "ViewPosition_DICOM": "POSTEROANTERIOR", "Projection": projection, "Pediatric": "No",
            "Report": "sin hallaz patolog edad pacient .", "MethodLabel": "Physician", "Labels": labels,
        }  # fmt: skip
        lines.append([row[column] for column in PADCHEST_COLUMNS])
        put_image(root / str(folder) / name, 40_000, np.uint16)
    put_table(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", PADCHEST_COLUMNS, *lines)
    return root
