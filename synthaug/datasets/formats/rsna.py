"""RSNA Pneumonia Detection Challenge: `stage_2_train_labels.csv`, `stage_2_detailed_class_info.csv`, DICOM films.

A line of the labels is a box, or a film without one; several lines are several boxes. Target 1 is `pneumonia`
and `lung_opacity`; 0 is their absence. The detailed classes tell "Normal" (`no_finding` = 1) from "No Lung
Opacity / Not Normal" (0); without that table `no_finding` is unknown where Target is 0. Boxes are
`provenance["boxes"]` in pixels of the film of 1024 x 1024. `patientId` names a film, not a patient: patients
are unknown. Age, sex and view come from the DICOM header. The films of stage 2's test have no labels here.

Reference: Shih et al., "Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert
Annotations of Possible Pneumonia", Radiology: Artificial Intelligence 2019.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.files import Table
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.errors import DataError
from synthaug.findings import NO_FINDING
from synthaug.record import Record

FINDINGS = listing.ordered((NO_FINDING, "lung_opacity", "pneumonia"))
SIGN = "stage_2_train_labels.csv"

_NEEDED = ("patientId", "x", "y", "width", "height", "Target")
_NORMAL = {"Normal": 1.0, "No Lung Opacity / Not Normal": 0.0, "Lung Opacity": 0.0}


def detect(root: Path) -> str | None:
    """Why the folder is the RSNA pneumonia challenge, or None."""
    tables = _tables(root)
    return f"RSNA Pneumonia: {tables[0].name}" if tables else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of the challenge's training part, in the order of their first line.

    Raises:
        DataError: no table, a missing column, a line that cannot be read, no image of the table.
    """
    options = options or Options()
    tables = _tables(root)
    if not tables:
        raise DataError(f"{root}: no {SIGN}, expected the RSNA Pneumonia layout")
    table = files.read_table(tables[0])
    table.need(_NEEDED, "RSNA Pneumonia")
    details = files.tables(root, "stage_2_detailed_class_info.csv")
    classes = _classes(files.read_table(details[0])) if details else {}
    films, left_out = join(root, _lines(table, classes), options)
    reading = {"labels": tables[0].name, "classes": details[0].name if details else "none"}
    return Listing("rsna", films, FINDINGS, left_out, reading)


def _tables(root: Path) -> list[Path]:
    return files.tables(root, "stage_2_train_labels.csv")


def _classes(table: Table) -> dict[str, float]:
    """Film -> whether it is normal."""
    table.need(("patientId", "class"), "RSNA Pneumonia")
    found = {}
    for place, row in table.rows_with_place():
        if row["class"] not in _NORMAL:
            raise DataError(
                f"{place}: found the class {row['class']!r}, expected one of {', '.join(_NORMAL)}"
            )
        found[row["patientId"]] = _NORMAL[row["class"]]
    return found


def _lines(table: Table, classes: Mapping[str, float]) -> Iterable[Line]:
    films: dict[str, list[tuple[str, Mapping[str, str]]]] = defaultdict(list)
    for place, row in table.rows_with_place():
        films[row["patientId"]].append((place, row))
    for film, rows in films.items():
        yield Line(rows[0][0], film, lambda key, film=film, rows=rows: _record(key, film, rows, classes))  # type: ignore[misc]


def _record(
    key: str, film: str, rows: list[tuple[str, Mapping[str, str]]], classes: Mapping[str, float]
) -> Record:
    targets = {row["Target"] for _, row in rows}
    if len(targets) != 1 or not targets <= {"0", "1"}:
        raise DataError(
            f"film {film}: found Target {', '.join(sorted(targets))}, expected 0 or 1 on all its lines"
        )
    present = float(targets == {"1"})
    provenance: dict[str, Any] = {"source": "RSNA Pneumonia"}
    if present:
        provenance["boxes"] = [_box(row) for _, row in rows]
    normal = {NO_FINDING: classes[film]} if film in classes else {}
    return Record(key, {**normal, "lung_opacity": present, "pneumonia": present}, provenance=provenance)


def _box(row: Mapping[str, str]) -> dict[str, Any]:
    names = {"x": "x", "y": "y", "w": "width", "h": "height"}
    return {"finding": "lung_opacity", **{short: float(row[name]) for short, name in names.items()}}
