"""SIIM-ACR Pneumothorax: `train-rle.csv` (or `stage_2_train.csv`) and DICOM films in folders of study and series.

A line is one run-length encoded mask of a film, or " -1" for none; its second header is " EncodedPixels", with
the space. A film with a mask has `pneumothorax` = 1, one without has 0; everything else is unknown.
`provenance["masks"]` counts the masks. Age, sex and view come from the DICOM header; patients are unknown
(the header's PatientID names a film).

Reference: SIIM-ACR Pneumothorax Segmentation Challenge, 2019.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.files import Table
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.errors import DataError
from synthaug.record import Record

FINDINGS = listing.ordered(("no_finding", "pneumothorax"))
SIGN = "train-rle.csv or stage_2_train.csv with ImageId, EncodedPixels"

_NEEDED = ("ImageId", "EncodedPixels")


def detect(root: Path) -> str | None:
    """Why the folder is SIIM-ACR Pneumothorax, or None."""
    tables = _tables(root)
    return f"SIIM-ACR Pneumothorax: {tables[0].name}" if tables else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of the training part, in the order of their first line.

    Raises:
        DataError: no table, a missing column, a line that cannot be read, no image of the table.
    """
    options = options or Options()
    tables = _tables(root)
    if not tables:
        raise DataError(f"{root}: no {SIGN}")
    films, left_out = join(root, _lines(files.read_table(tables[0])), options)
    return Listing("siim", films, FINDINGS, left_out, {"labels": tables[0].name})


def _tables(root: Path) -> list[Path]:
    found = files.tables(root, "train-rle.csv", "stage_2_train.csv", "*/train-rle.csv", "*/stage_2_train.csv")
    return [path for path in found if set(_NEEDED) <= set(files.header(path))]


def _lines(table: Table) -> Iterable[Line]:
    masks: dict[str, tuple[str, list[str]]] = defaultdict(lambda: ("", []))
    for place, row in table.rows_with_place():
        first, found = masks[row["ImageId"]]
        masks[row["ImageId"]] = (first or place, [*found, row["EncodedPixels"]])
    for film, (place, found) in masks.items():
        yield Line(place, film, lambda key, found=found: _record(key, found))  # type: ignore[misc]


def _record(key: str, masks: list[str]) -> Record:
    empty = [mask for mask in masks if mask == "-1"]
    if not all(masks) or (empty and len(masks) > 1):
        raise DataError(f"found {len(masks)} masks, {len(empty)} of them -1 (none); expected masks or one -1")
    present = 0 if empty else len(masks)
    provenance = {"source": "SIIM-ACR Pneumothorax", "masks": present}
    return Record(key, {"pneumothorax": float(present > 0)}, provenance=provenance)
