"""CheXpert Plus: `df_chexpert_plus_240401.csv`, CheXbert's labels as JSON lines, films as PNG (or DICOM).

Labels come from `report_fixed.json`, else `impression_fixed.json`, else `findings_fixed.json` (anywhere below
the folder), one JSON object a line, joined by `path_to_image`; without them every label is unknown. Sections
of the report are `provenance["report"]`.

Reference: Chambon et al., "CheXpert Plus: Augmenting a Large Chest X-ray Dataset with Text Radiology Reports,
Patient Demographics and Additional Image Formats" (arXiv:2405.19538).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import chexpert, files, listing
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.values import parse_age, parse_sex, split_name
from synthaug.errors import DataError
from synthaug.findings import canonical
from synthaug.record import Record

FINDINGS = chexpert.FINDINGS
SIGN = "df_chexpert_plus_*.csv"

_LABELS = ("report_fixed.json", "impression_fixed.json", "findings_fixed.json")
_NEEDED = ("path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "split")
_KEPT = (*_NEEDED, "age", "sex", "section_findings", "section_impression")
_COLUMNS = {name: canonical(name) for name in chexpert.COLUMNS}


def detect(root: Path) -> str | None:
    """Why the folder is CheXpert Plus, or None."""
    tables = files.tables(root, SIGN)
    return f"CheXpert Plus: {tables[-1].name}" if tables else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of CheXpert Plus, in the table's order.

    Raises:
        DataError: no table, a missing column, a line that cannot be read, no image of the table.
    """
    options = options or Options()
    tables = files.tables(root, SIGN)
    if not tables:
        raise DataError(f"{root}: no {SIGN}, expected the CheXpert Plus layout")
    table = files.read_table(tables[-1], _KEPT)
    table.need(_NEEDED, "CheXpert Plus")
    source = next((path for name in _LABELS for path in sorted(root.rglob(name))), None)
    labels = _labels(source) if source else {}
    lines = (_line(place, row, labels, options) for place, row in table.rows_with_place())
    films, left_out = join(root, lines, options)
    reading = {"reports": table.path.name, "uncertain (-1)": options.uncertain}
    reading["labels"] = source.relative_to(root).as_posix() if source else "none: no report_fixed.json"
    return Listing("chexpert_plus", films, listing.ordered(FINDINGS), left_out, reading)


def _labels(path: Path) -> dict[str, dict[str, str]]:
    """Image without suffix -> column -> cell."""
    found, number = {}, 0
    try:
        with open(path, encoding="utf-8") as file:
            for text in file:
                number += 1
                if text.strip():
                    value = json.loads(text)
                    found[_stem(value["path_to_image"])] = {
                        name: "" if value.get(name) is None else str(value[name]) for name in _COLUMNS
                    }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} line {number}: expected one JSON object with path_to_image a line ({error})"
        ) from error
    return found


def _stem(path: str) -> str:
    return str(path).rpartition(".")[0]


def _line(
    place: str, row: Mapping[str, str], labels: Mapping[str, Mapping[str, str]], options: Options
) -> Line:
    path = row["path_to_image"]

    def record(key: str) -> Record:
        sections = {name: row.get(f"section_{name}", "") for name in ("findings", "impression")}
        report = {name: text for name, text in sections.items() if text}
        provenance: dict[str, Any] = {"source": "CheXpert Plus", "split": split_name(row["split"])}
        facts = {"Frontal/Lateral": row["frontal_lateral"], "AP/PA": row["ap_pa"]}
        return Record(
            key,
            chexpert.labels_of(
                labels.get(_stem(path), dict.fromkeys(_COLUMNS, "")), _COLUMNS, options.uncertain
            ),
            view=chexpert.view_of(facts, path),
            age=parse_age(row.get("age", "")),
            sex=parse_sex(row.get("sex", "")),
            patient=row["deid_patient_id"] or None,
            provenance=provenance | ({"report": report} if report else {}),
        )

    return Line(place, path, record)
