"""CheXpert as downloaded: `train.csv`, `valid.csv` (and the later `test_labels.csv`), films by patient and study.

Labels: 1, 0, -1 "uncertain" (`Options.uncertain`: unknown by default, zeros or ones), empty: unknown. The
patient and the official split stand in the path; "Frontal/Lateral" and "AP/PA" are the view. The small
edition keeps `train/patient00001/study1/view1_frontal.jpg`; the full one has the batches' folders instead of
`train/`, and is matched by patient and study.

Reference: Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert
Comparison", AAAI 2019 (arXiv:1901.07031).
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.files import Table
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.values import (
    chexpert_labels,
    is_split,
    parse_age,
    parse_sex,
    parse_value,
    parse_view,
    split_name,
)
from synthaug.errors import DataError, UnknownNameError
from synthaug.findings import canonical, check
from synthaug.record import Record

COLUMNS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture", "Support Devices",
)  # fmt: skip
FINDINGS = listing.ordered(map(canonical, COLUMNS))
SIGN = "train.csv, valid.csv with Path and the CheXpert labels"

_PATTERNS = ("train.csv", "valid.csv", "test.csv", "test_labels.csv", "groundtruth.csv")
_NEEDED = ("Path", "No Finding", "Enlarged Cardiomediastinum", "Pleural Other")
_FACTS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")


def detect(root: Path) -> str | None:
    """Why the folder is CheXpert, or None."""
    tables = _tables(root)
    return f"CheXpert: {', '.join(path.relative_to(root).as_posix() for path in tables)}" if tables else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of CheXpert, training first.

    Raises:
        DataError: no such table, a line that cannot be read, no image of the tables.
    """
    options = options or Options()
    paths = _tables(root)
    if not paths:
        raise DataError(
            f"{root}: no train.csv or valid.csv of CheXpert (columns {', '.join(_FACTS)}, labels)"
        )
    tables = [files.read_table(path) for path in paths]
    more = {name: finding for table in tables for name, finding in _more(table).items()}
    lines = (_line(place, row, more, options) for table in tables for place, row in table.rows_with_place())
    films, left_out = join(root, lines, options)
    reading = {"labels": ", ".join(path.relative_to(root).as_posix() for path in paths)}
    reading["uncertain (-1)"] = options.uncertain
    return Listing("chexpert", films, listing.ordered({*FINDINGS, *more.values()}), left_out, reading)


def labels_of(row: Mapping[str, str], columns: Mapping[str, str], uncertain: str) -> dict[str, float]:
    """The labels of one line of a CheXpert-style table.

    Args:
        row: column -> cell.
        columns: column -> finding.
        uncertain: what -1 becomes.

    Raises:
        DataError, LabelError: a cell or the labels together make no sense.
    """
    labels = {finding: parse_value(row[name], uncertain) for name, finding in columns.items() if name in row}
    return check(chexpert_labels(labels))


def patient_and_study(path: str) -> tuple[str | None, str | None]:
    """("patient00001", "study1") of a path, or None where it does not say."""
    patient, study = re.search(r"patient\d+", path), re.search(r"study\d+", path)
    return (patient[0] if patient else None), (study[0] if study else None)


def view_of(row: Mapping[str, str], path: str) -> str | None:
    """The view by the table's columns or, without them, by the file's name."""
    if row.get("Frontal/Lateral", "").lower() == "lateral" or path.lower().rstrip("gnpj.e").endswith(
        "lateral"
    ):
        return "lateral"
    return parse_view(row.get("AP/PA", "") or "unknown")


def _tables(root: Path) -> list[Path]:
    found = files.tables(root, *_PATTERNS, *(f"*/{name}" for name in _PATTERNS))
    fitting = [path for path in found if set(_NEEDED) <= set(files.header(path))]
    order = {name: place for place, name in enumerate(_PATTERNS)}
    return sorted(fitting, key=lambda path: (order[path.name.removesuffix(".gz")], path))


def _more(table: Table) -> dict[str, str]:
    """Label columns: CheXpert's own, and any other that names a finding."""
    found = {}
    for name in table.columns:
        if name in _FACTS:
            continue
        try:
            found[name] = canonical(name)
        except UnknownNameError:
            continue
    return found


def _line(place: str, row: Mapping[str, str], columns: Mapping[str, str], options: Options) -> Line:
    path = row["Path"]

    def record(key: str) -> Record:
        patient, study = patient_and_study(path)
        provenance: dict[str, Any] = {"source": "CheXpert", "study": study}
        split = next((part for part in PurePosixPath(path).parts if is_split(part)), None)
        if split:
            provenance["split"] = split_name(split)
        return Record(
            key,
            labels_of(row, columns, options.uncertain),
            view=view_of(row, path),
            age=_age(row),
            sex=parse_sex(row.get("Sex", "")),
            patient=patient,
            provenance={name: value for name, value in provenance.items() if value is not None},
        )

    return Line(place, path, record)


def _age(row: Mapping[str, str]) -> float | None:
    """Years; the one film of unknown sex has the age 0, which is unknown too."""
    age = parse_age(row.get("Age", ""))
    return None if age == 0 and row.get("Sex", "").lower() == "unknown" else age
