"""NIH ChestX-ray14 as downloaded: `Data_Entry_2017*.csv`, perhaps `BBox_List_2017.csv`, images in any folder.

Labels: a row names the findings that were text-mined from the report; the other NIH findings are 0, and "No
Finding" is the finding `no_finding`. Findings that NIH does not know are left unknown (only `no_finding` = 1
settles them, as everywhere). Boxes are `provenance["boxes"]`: finding, x, y, w, h in pixels of the original
of 1024 x 1024 (`provenance["boxes_frame"]`), whatever the size of the file; `boxes` rescales them.
`provenance["split"]` is "train_val" or "test" where `train_val_list.txt` and `test_list.txt` are there.

Reference: Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks", CVPR 2017.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.values import parse_age, parse_sex, parse_view
from synthaug.errors import DataError, UnknownNameError
from synthaug.findings import NO_FINDING, canonical, check
from synthaug.record import Record

FINDINGS = listing.ordered(
    (
        NO_FINDING, "atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion",
        "emphysema", "fibrosis", "hernia", "infiltration", "mass", "nodule", "pleural_thickening",
        "pneumonia", "pneumothorax",
    )
)  # fmt: skip
BOXES_FRAME = 1024

_IMAGE, _LABELS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"
_AGE, _SEX, _VIEW = "Patient Age", "Patient Gender", "View Position"
# NIH's header line splits "OriginalImage[Width,Height]" at its own comma, and so do its rows.
_NUMBERS = {
    "original_size": ("OriginalImage[Width", "Height]"),
    "original_pixel_spacing_mm": ("OriginalImagePixelSpacing[x", "y]"),
}


SIGN = "Data_Entry_2017*.csv"


def detect(root: Path) -> str | None:
    """Why the folder is NIH ChestX-ray14, or None."""
    tables = _tables(root)
    return f"NIH ChestX-ray14: {tables[0].name}" if tables else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of an NIH folder, in the table's order.

    Raises:
        DataError: a missing table or column, a row that cannot be read, no image of the table.
    """
    options = options or Options()
    table = files.read_table(_table(root))
    table.need((_IMAGE, _LABELS, _PATIENT, _AGE, _SEX, _VIEW), "NIH ChestX-ray14")
    boxes, splits = _boxes(root), _splits(root)

    def line(place: str, row: Mapping[str, str]) -> Line:
        return Line(
            place,
            row[_IMAGE],
            lambda key: _record(key, row, boxes.get(_stem(row), []), splits.get(_stem(row))),
        )

    films, left_out = join(root, (line(*place_and_row) for place_and_row in table.rows_with_place()), options)
    reading = {"labels": table.path.name, "boxes": f"{sum(map(len, boxes.values()))} in the 1024 px frame"}
    reading["splits"] = (
        "train_val_list.txt, test_list.txt" if splits else "none: no train_val_list.txt or test_list.txt"
    )
    return Listing("nih", films, FINDINGS, left_out, reading)


def _stem(row: Mapping[str, str]) -> str:
    return Path(row[_IMAGE]).stem


def boxes(record: Record, size: int) -> list[tuple[str, float, float, float, float]]:
    """The boxes of a record as (finding, x, y, w, h) in pixels of a square image of `size` pixels."""
    scale = size / record.provenance.get("boxes_frame", BOXES_FRAME)
    return [
        (box["finding"], box["x"] * scale, box["y"] * scale, box["w"] * scale, box["h"] * scale)
        for box in record.provenance.get("boxes", ())
    ]


def _tables(root: Path) -> list[Path]:
    return files.tables(root, "Data_Entry_2017*.csv")


def _table(root: Path) -> Path:
    tables = _tables(root)
    if not tables:
        raise DataError(f"{root}: no Data_Entry_2017*.csv, expected the NIH ChestX-ray14 layout")
    return tables[-1]  # of the original and the corrected v2020 table, the later one


def _record(key: str, row: Mapping[str, str], boxes: list[dict[str, Any]], split: str | None) -> Record:
    provenance: dict[str, Any] = {name: _numbers(row, columns) for name, columns in _NUMBERS.items()}
    provenance = {name: value for name, value in provenance.items() if value is not None}
    if boxes:
        provenance |= {"boxes": boxes, "boxes_frame": BOXES_FRAME}
    if split:
        provenance["split"] = split
    return Record(
        key,
        _labels(row[_LABELS]),
        view=parse_view(row[_VIEW]),
        age=parse_age(row[_AGE]),
        sex=parse_sex(row[_SEX]),
        patient=row[_PATIENT] or None,
        provenance={"source": "NIH ChestX-ray14", **provenance},
    )


@lru_cache(maxsize=4096)  # a hundred thousand films share some eight hundred texts
def _labels(text: str) -> dict[str, float]:
    positives = [canonical(name) for name in text.split("|") if name.strip()]
    if not positives:
        raise DataError(f"{_LABELS} is empty, expected findings or 'No Finding'")
    return check({finding: float(finding in positives) for finding in (*FINDINGS, *positives)})


def _numbers(row: Mapping[str, str], columns: tuple[str, str]) -> list[float] | None:
    texts = [row.get(column, "") for column in columns]
    return [float(text) for text in texts] if all(texts) else None


def _boxes(root: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    path = root / "BBox_List_2017.csv"
    if not path.is_file():
        return found
    # Its header is "Image Index,Finding Label,Bbox [x,y,w,h],,,": found by place, not by name.
    for line, cells in files.read_cells(path)[1:]:
        try:
            name, finding, (x, y, w, h) = cells[0], canonical(cells[1]), map(float, cells[2:6])
        except (ValueError, IndexError, UnknownNameError) as error:
            raise DataError(
                f"{path} line {line}: found {','.join(cells)}, expected image,finding,x,y,w,h"
            ) from error
        found[Path(name).stem].append({"finding": finding, "x": x, "y": y, "w": w, "h": h})
    return found


def _splits(root: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in ("train_val", "test"):
        path = root / f"{split}_list.txt"
        if path.is_file():
            splits |= {Path(name).stem: split for name in path.read_text(encoding="utf-8").split()}
    return splits
