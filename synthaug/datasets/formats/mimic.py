"""MIMIC-CXR-JPG: metadata, split, and the labels of two labellers, joined by study.

`mimic-cxr-2.*-metadata.csv[.gz]` has a line a film, `-split` the official split, `-chexpert` and `-negbio` a
line a study. A finding is what CheXpert's labeller says; what it leaves empty, NegBio's says; where one says
present and the other absent it is uncertain. Uncertain (-1) follows `Options.uncertain`. Films are found by
`dicom_id` below `files/p10/p10000032/s50414267/`. A study without labels is unknown throughout.

Reference: Johnson et al., "MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs"
(arXiv:1901.07042).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import chexpert, files
from synthaug.datasets.formats.files import Table
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.values import parse_view, split_name
from synthaug.errors import DataError
from synthaug.findings import canonical
from synthaug.record import Record

FINDINGS = chexpert.FINDINGS
SIGN = "mimic-cxr-2.*-metadata.csv[.gz]"

_COLUMNS = {name: canonical(name) for name in chexpert.COLUMNS}
_KEPT = ("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "split")
_NEEDED = {
    "metadata": ("dicom_id", "subject_id", "study_id", "ViewPosition"),
    "split": ("dicom_id", "split"),
    "chexpert": ("subject_id", "study_id", "No Finding"),
    "negbio": ("subject_id", "study_id", "No Finding"),
}


def detect(root: Path) -> str | None:
    """Why the folder is MIMIC-CXR-JPG, or None."""
    found = [name for kind in _NEEDED for name in _names(root, kind)]
    return f"MIMIC-CXR-JPG: {', '.join(found)}" if _names(root, "metadata") else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of MIMIC-CXR-JPG, in the metadata's order.

    Raises:
        DataError: no metadata or no labels, a missing column, a line that cannot be read, no image.
    """
    options = options or Options()
    metadata, split = _table(root, "metadata"), _table(root, "split")
    labellers = [table for kind in ("chexpert", "negbio") if (table := _table(root, kind))]
    if metadata is None or not labellers:
        lacking = "metadata" if metadata is None else "chexpert or -negbio"
        raise DataError(f"{root}: no mimic-cxr-2.*-{lacking}.csv or .csv.gz; download it beside the films")
    splits = {row["dicom_id"]: row["split"] for _, row in split.rows} if split else {}
    said = [{row["study_id"]: row for _, row in table.rows} for table in labellers]
    lines = (_line(place, row, said, splits, options) for place, row in metadata.rows_with_place())
    films, left_out = join(root, lines, options)
    reading = {
        "labels": ", ".join(table.path.name for table in labellers),
        "uncertain (-1)": options.uncertain,
    }
    reading["splits"] = split.path.name if split else "none: no mimic-cxr-2.*-split.csv"
    return Listing("mimic", films, FINDINGS, left_out, reading)


def merged(said: list[Mapping[str, str]]) -> dict[str, str]:
    """Column -> cell of what one or two labellers say of a study."""
    result = {}
    for name in _COLUMNS:
        cells = {row.get(name, "").removesuffix(".0") for row in said} - {""}
        first = next((row[name] for row in said if row.get(name)), "")
        result[name] = "-1" if {"0", "1"} <= cells else first
    return result


def _names(root: Path, kind: str) -> list[str]:
    return [path.name for path in files.tables(root, f"mimic-cxr-2.*-{kind}.csv")]


def _table(root: Path, kind: str) -> Table | None:
    names = _names(root, kind)
    if not names:
        return None
    table = files.read_table(root / names[-1], (*_KEPT, *_COLUMNS))
    table.need(_NEEDED[kind], "MIMIC-CXR-JPG")
    return table


def _line(
    place: str,
    row: Mapping[str, str],
    said: list[dict[str, Mapping[str, str]]],
    splits: Mapping[str, str],
    options: Options,
) -> Line:
    study, film = row["study_id"], row["dicom_id"]

    def record(key: str) -> Record:
        cells = merged([table[study] for table in said if study in table])
        provenance: dict[str, Any] = {"source": "MIMIC-CXR-JPG", "study": study}
        if film in splits:
            provenance["split"] = split_name(splits[film])
        view = row["ViewPosition"] or row.get("ViewCodeSequence_CodeMeaning", "")
        return Record(
            key,
            chexpert.labels_of(cells, _COLUMNS, options.uncertain),
            view=parse_view(view) or _by_code(view),
            patient=row["subject_id"],
            provenance=provenance,
        )

    return Line(place, film, record)


def _by_code(meaning: str) -> str | None:
    """The view of a DICOM view code's meaning ("postero-anterior")."""
    plain = meaning.strip().lower()
    return {"postero-anterior": "PA", "antero-posterior": "AP", "left lateral": "lateral",
            "lateral": "lateral"}.get(plain)  # fmt: skip
