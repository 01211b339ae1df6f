"""Parquet files with an image a row: `synthaug export --to parquet|hf`, and Hugging Face data sets like them.

The column `image` is a struct of `bytes` and `path`, or plain bytes; the other columns are read as those of any
table (see `csv_table`). A film is read from its row group alone, and the last few groups are kept. The split is
the file's name before the first dash ("train-00000-of-00001.parquet"), where it names one.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import csv_table, listing
from synthaug.datasets.formats.files import Table
from synthaug.datasets.formats.listing import Film, Listing, Options
from synthaug.datasets.formats.values import is_split, split_name
from synthaug.errors import DataError, LabelError, NotInstalledError, UnknownNameError
from synthaug.findings import NO_FINDING

SIGN = "*.parquet with an image column"
IMAGE = "image"


@dataclass(frozen=True, slots=True)
class ParquetFilm(Film):
    """A film in row `number` of a row group."""

    group: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.path}: {self.record.key}"

    def source(self) -> bytes:
        cell = _group(str(self.path), self.group)[self.number]
        data = cell["bytes"] if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise DataError(
                f"{self.name}: no image bytes in the file, only a path; export it with its images"
            )
        return data


def detect(root: Path) -> str | None:
    """Why the folder holds Parquet with images, or None; without pyarrow the file names must do."""
    paths = _paths(root)
    if not paths:
        return None
    try:
        found = IMAGE in _opened(paths[0]).schema_arrow.names
    except NotInstalledError:
        found = True
    except DataError:
        found = False
    return f"Parquet: {', '.join(path.relative_to(root).as_posix() for path in paths[:3])}" if found else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of the Parquet files, in their order.

    Raises:
        NotInstalledError: pyarrow is not installed.
        DataError: no such file, no image column, a damaged file, or a row that cannot be read.
    """
    options = options or Options()
    paths = _paths(root)
    if not paths:
        raise DataError(f"{root}: no {SIGN}")
    tables = [_table(path) for path in paths]
    columns = csv_table.choose_columns(tables[0], options)
    rows = [row for table in tables for _, row in table.rows]
    listed = csv_table.listed_findings(rows, columns, options)
    films: list[Film] = []
    bad: list[str] = []
    for table in tables:
        for (place, row), (group, number) in zip(table.rows_with_place(), _places(table.path), strict=True):
            key = row[columns.roles["image"]]
            try:
                record = csv_table.record_of(key, row, columns, options, listed)
            except (DataError, LabelError, UnknownNameError) as error:
                if not options.skip_bad:
                    raise DataError(f"{place}: {error}; --skip-bad leaves such rows out") from error
                bad.append(key)
                continue
            films.append(ParquetFilm(table.path, record, group, number))
    left_out = listing.left_out([(listing.BAD_ROW, bad)])
    named = {finding for film in films for finding in film.record.labels}
    findings = listing.ordered({NO_FINDING, *columns.findings, *listed, *named})
    reading = {f"{finding} column": column for finding, column in columns.findings.items()}
    return Listing("parquet", listing.some_films(films, root, left_out), findings, left_out, reading)


def _paths(root: Path) -> list[Path]:
    return sorted(path for pattern in ("*.parquet", "data/*.parquet") for path in root.glob(pattern))


def _table(path: Path) -> Table:
    """The rows without their images; the image's role is played by the row's key, or its path."""
    file = _opened(path)
    if IMAGE not in file.schema_arrow.names:
        raise DataError(f"{path}: no column {IMAGE!r}, found {', '.join(file.schema_arrow.names)}")
    others = [name for name in file.schema_arrow.names if name != IMAGE]
    split = path.name.partition("-")[0]
    fixed = {"split": split_name(split)} if is_split(split) and "split" not in others else {}
    rows = []
    for number, values in enumerate(_pylist(file, path, others), 1):
        cells = {name: _cell(values[name]) for name in others}
        cells[IMAGE] = cells.get("key") or f"{path.stem}-{number:06d}"
        rows.append((number, cells | fixed))
    return Table(path, (IMAGE, *others, *fixed), tuple(rows))


def _pylist(file: Any, path: Path, columns: list[str]) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = file.read(columns=columns).to_pylist()
        return found
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged Parquet ({error}); export or download it again") from error


def _places(path: Path) -> list[tuple[int, int]]:
    metadata = _opened(path).metadata
    groups = range(metadata.num_row_groups)
    return [(group, number) for group in groups for number in range(metadata.row_group(group).num_rows)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "|".join(str(item) for item in value)
    return str(value)


@lru_cache(maxsize=4)
def _group(path: str, group: int) -> list[Any]:
    try:
        found: list[Any] = _opened(Path(path)).read_row_group(group, columns=[IMAGE])[IMAGE].to_pylist()
        return found
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged Parquet ({error}); export or download it again") from error


def _opened(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise NotInstalledError(
            "Parquet files are read by pyarrow; pip install 'synthaug[export]'"
        ) from error
    try:
        return ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a Parquet file ({error}); export or download it again") from error
