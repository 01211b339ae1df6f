"""COVID-19 image collections with a `metadata.csv`: ieee8023's, and those of its layout (Figure 1, ActualMed).

A line a film: patientid, sex, age, finding, view, modality and filename (ieee8023), imagename (ActualMed) or
nothing but the patient (Figure 1, whose file is named after him). "Pneumonia/Viral/COVID-19" is a path of ever
narrower names: each that the vocabulary knows is 1. "todo" and "Unknown" are unknown. CT, and axial and
coronal views, are left out.

Reference: Cohen et al., "COVID-19 Image Data Collection: Prospective Predictions Are the Future"
(arXiv:2006.11988).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.values import parse_age, parse_sex, parse_view
from synthaug.errors import DataError, UnknownNameError
from synthaug.findings import NO_FINDING, canonical, check
from synthaug.record import Record

SIGN = "metadata.csv with patientid, finding, view and modality"

_NEEDED = ("patientid", "finding", "view", "modality")
_UNKNOWN = {"todo", "unknown", ""}
_NO_RADIOGRAPH = ("axial", "coronal")


def detect(root: Path) -> str | None:
    """Why the folder is a COVID-19 collection, or None."""
    return "COVID-19 collection: metadata.csv" if _tables(root) else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of the collection, in the table's order.

    Raises:
        DataError: no such table, a line that cannot be read, no image of the table.
    """
    options = options or Options()
    tables = _tables(root)
    if not tables:
        raise DataError(f"{root}: no {SIGN}")
    table = files.read_table(tables[0])
    name = next((column for column in ("filename", "imagename") if column in table.columns), "patientid")
    lines = (_line(place, row, name) for place, row in table.rows_with_place())
    films, left_out = join(root, lines, options)
    named = {finding for film in films for finding in film.record.labels}
    reading = {"labels": "finding of metadata.csv", "image column": name}
    return Listing("covid", films, listing.ordered({NO_FINDING, "covid_19", *named}), left_out, reading)


def labels_of(text: str) -> dict[str, float]:
    """The labels of a path of names; what it does not name is unknown."""
    names = [name.strip() for name in re.split(r"[/,]", text)]
    if {name.lower() for name in names} <= _UNKNOWN:
        return {}
    found = {finding for name in names if (finding := _finding(name))}
    return check(
        dict.fromkeys(found, 1.0)
        if found == {NO_FINDING}
        else {NO_FINDING: 0.0, **dict.fromkeys(found - {NO_FINDING}, 1.0)}
    )


def _finding(name: str) -> str | None:
    try:
        return canonical(name)
    except UnknownNameError:
        return None


def _tables(root: Path) -> list[Path]:
    found = files.tables(root, "metadata.csv")
    return [path for path in found if set(_NEEDED) <= set(files.header(path))]


def _line(place: str, row: Mapping[str, str], name: str) -> Line:
    def record(key: str) -> Record:
        provenance: dict[str, Any] = {"source": "COVID-19 collection", "finding": row["finding"]}
        if row.get("clinical_notes"):
            provenance["report"] = {"clinical_notes": row["clinical_notes"]}
        return Record(
            key,
            labels_of(row["finding"]),
            view=parse_view(row["view"] or "unknown"),
            age=parse_age(row.get("age", "")),
            sex=parse_sex(row.get("sex", "")),
            patient=row["patientid"] or None,
            provenance=provenance,
        )

    reason = None
    if row["modality"].lower() not in ("x-ray", "xray", ""):
        reason = f"modality {row['modality']}"
    elif row["view"].lower().startswith(_NO_RADIOGRAPH):
        reason = f"{row['view']} view"
    return Line(place, row[name], record, reason)
