"""Files of a folder: images found, tables read with their line numbers."""

import contextlib
import csv
import gzip
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from synthaug.errors import DataError, nearest
from synthaug.shards import local_path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".dcm", ".dicom")
DICOM_SUFFIXES = (".dcm", ".dicom")
# What a user may hold in the place of a folder or a table, and what to do about it.
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")
WORKBOOKS = (".xlsx", ".xls", ".ods", ".numbers")
MAX_LETTERS = 1 << 31  # of a table, unpacked: ten times those of the largest public one
UNFINISHED = (".part", ".crdownload", ".download", ".aria2", ".partial")


def existing_folder(root: str | Path) -> Path:
    """The folder as a path.

    Raises:
        DataError: it is not there, is not a folder, or is a URL.
    """
    folder = local_path(root)
    if folder is None:
        raise DataError(
            f"{root}: by URL only folders of shards are read; `synthaug pack FOLDER --out {root}` makes one"
        )
    path = folder.expanduser()
    if not path.is_dir():
        if path.is_file() and path.name.lower().endswith(ARCHIVES):
            folder = path.with_suffix("")
            how = "unzip -d" if path.suffix.lower() == ".zip" else "unpack it to"
            raise DataError(
                f"{path}: an archive, expected a folder of radiographs; unpack it first ({how} {folder})"
            )
        what = "found a file" if path.exists() else "no such folder"
        raise DataError(f"{path}: {what}, expected a folder of radiographs")
    return path


def find_images(root: Path) -> list[Path]:
    """Every image file under `root`, sorted; hidden ones are passed over, links to folders followed once."""
    return walk(root, lambda name: name.lower().endswith(IMAGE_SUFFIXES))


def walk(root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Every file under `root` whose name is wanted, sorted; hidden ones are passed over, links followed once."""
    found: list[str] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        found += [os.path.join(folder, name) for name in names if not name.startswith(".") and wanted(name)]
    return [Path(path) for path in sorted(found)]


def unfinished(root: Path) -> list[Path]:
    """Files that a download has not finished."""
    return walk(root, lambda name: name.lower().endswith(UNFINISHED))


def keys_of(root: Path, paths: Sequence[Path]) -> list[str]:
    """A key for each image: its stem, or its path below `root` without suffix where stems repeat."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    keys = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    if len(set(keys)) == len(keys):
        return keys
    return [path.relative_to(root).as_posix() for path in paths]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of labels: its file, its columns, and its rows, each with the line that it ends on."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]

    def need(self, names: Sequence[str], layout: str) -> None:
        """Make sure of the columns that a layout cannot do without.

        Raises:
            DataError: one is missing.
        """
        for name in names:
            if name not in self.columns:
                raise DataError(
                    f"{self.path}: no column {name!r}, found {', '.join(self.columns)}; expected the {layout} "
                    "layout, a table of another one is read with --format csv"
                )

    def column(self, name: str, role: str) -> str:
        """`name`, once it is sure that the table has it.

        Raises:
            DataError: no such column; the message lists those there are and suggests the nearest.
        """
        if name in self.columns:
            return name
        near = nearest(name, self.columns)
        suggestion = f"did you mean {near!r}? " if near else ""
        raise DataError(
            f"{self.path}: no column {name!r} for {role}; {suggestion}columns are {', '.join(self.columns)}; "
            f"set it with --column {role}=NAME (columns={{{role!r}: NAME}})"
        )

    def rows_with_place(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Rows, each with the words that name it in a message."""
        for line, row in self.rows:
            yield f"{self.path} line {line}", row


def header(path: Path) -> tuple[str, ...]:
    """The column names of a table, or () when it has none or cannot be read."""
    try:
        with _open(path) as file:
            return tuple(name.strip() for name in next(csv.reader(file, delimiter=_delimiter(path)), ()))
    except _UNREADABLE:
        return ()


def tables(root: Path, *patterns: str) -> list[Path]:
    """The tables of a folder that fit one of the patterns (".csv.gz" fits ".csv" too), sorted."""
    both = [found for pattern in patterns for found in (pattern, f"{pattern}.gz")]
    found = {path for pattern in both for path in root.glob(pattern)}
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV (.tsv, .gz) file that hold something: line number and stripped cells.

    Raises:
        DataError: it cannot be read, is not UTF-8 text, or is a workbook.
    """
    if path.suffix.lower() in WORKBOOKS:
        raise DataError(
            f"{path}: an Excel workbook, expected a CSV table; save it as CSV (UTF-8) and name that"
        )
    try:
        with _open(path) as file:
            reader = csv.reader(file, delimiter=_delimiter(path))
            size = 0
            for row in reader:
                stripped = [cell.strip() for cell in row]
                size += sum(map(len, stripped))
                if size > MAX_LETTERS:
                    raise DataError(f"{path}: more than {MAX_LETTERS} letters, expected a table of labels")
                if any(stripped):
                    yield reader.line_num, stripped
    except _UNREADABLE as error:
        looks = "; it is an Excel workbook: save it as CSV (UTF-8)" if _is_workbook(path) else ""
        raise DataError(f"{path}: cannot be read as a CSV table ({error}){looks}") from error


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """All of `cells`."""
    return list(cells(path))


def read_table(path: Path, only: Collection[str] | None = None) -> Table:
    """A CSV (.tsv, .gz) file with a header; what a short line lacks reads as "".

    Args:
        path: the file.
        only: columns to keep of each row, those that are there; all when None.

    Raises:
        DataError: it cannot be read, is not UTF-8 text, has no header, or names a column twice.
    """
    lines = cells(path)
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path}: empty, expected a header line and one line a film")
    columns = tuple(first[1])
    if twice := {name for name in columns if name and columns.count(name) > 1}:
        raise DataError(f"{path}: the header names {', '.join(sorted(twice))} twice")
    places = [(place, name) for place, name in enumerate(columns) if only is None or name in only]
    rows = tuple(
        (line, {name: row[place] if place < len(row) else "" for place, name in places})
        for line, row in lines
    )
    return Table(path, tuple(name for name in columns if name), rows)


_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)


def _open(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _is_workbook(path: Path) -> bool:
    """Whether a file is a zip container or an OLE document, whatever its name says."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
    return False


def _delimiter(path: Path) -> str:
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
