"""A Hugging Face image folder: `metadata.csv` or `metadata.jsonl` with the column `file_name`, images beside it.

One metadata file at the top, or one in each split's folder (`train/metadata.jsonl`), where the folder is the
split. The other columns are read as those of any table: a column a finding, or one that lists them (a JSON
list too); text, boxes and the like are passed over. `null` is unknown.

Reference: "ImageFolder" of the Hugging Face `datasets` documentation.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import csv_table, files
from synthaug.datasets.formats.files import Table
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.errors import DataError

SIGN = "metadata.csv or metadata.jsonl with file_name"
COLUMN = "file_name"


def detect(root: Path) -> str | None:
    """Why the folder is a Hugging Face image folder, or None."""
    found = _tables(root)
    names = ", ".join(path.relative_to(root).as_posix() for path in found)
    return f"Hugging Face image folder: {names}" if found else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of the metadata files, in their order.

    Raises:
        DataError: no metadata file, a line that cannot be read, no image of them.
    """
    paths = _tables(root)
    if not paths:
        raise DataError(f"{root}: no {SIGN}")
    tables = [
        _placed(files.read_table(path) if path.suffix == ".csv" else _json_lines(path), root)
        for path in paths
    ]
    return csv_table.read_tables(root, tables, options or Options(), "hf_folder")


def _tables(root: Path) -> list[Path]:
    found = [
        path for pattern in ("metadata.csv", "metadata.jsonl", "*/metadata.csv", "*/metadata.jsonl")
        for path in sorted(root.glob(pattern))
    ]  # fmt: skip
    return [path for path in found if path.is_file() and COLUMN in _columns(path)]


def _columns(path: Path) -> tuple[str, ...]:
    if path.suffix == ".csv":
        return files.header(path)
    try:
        return tuple(next(_rows(path))[1])
    except (DataError, StopIteration):
        return ()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no object")
                yield number, row
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected one JSON object a line ({error})") from error


def _json_lines(path: Path) -> Table:
    rows = list(_rows(path))
    columns = tuple(dict.fromkeys(str(name) for _, row in rows for name in row))
    return Table(
        path, columns, tuple((line, {name: _cell(row.get(name)) for name in columns}) for line, row in rows)
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "|".join(value)
    return json.dumps(value)


def _placed(table: Table, root: Path) -> Table:
    """The table with paths from the folder's top, and the split that its folder names."""
    folder = table.path.parent.relative_to(root).as_posix()
    if folder == ".":
        return table
    rows = tuple(
        (line, {"split": folder, **row, COLUMN: f"{folder}/{row[COLUMN]}"}) for line, row in table.rows
    )
    return Table(table.path, tuple(dict.fromkeys(("split", *table.columns))), rows)
