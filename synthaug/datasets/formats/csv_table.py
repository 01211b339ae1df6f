"""Any table + images: one line a film, matched to the images by stem.

Columns are named by `Options.columns` or guessed from their headers; `Listing.reading` shows the choice.
Labels come from either kind of column, or both:

- one column a finding, holding 1, 0, -1 (CheXpert's "uncertain": unknown) or nothing (unknown);
- one column that lists findings ("Effusion|Mass", separators | , ; or a Python list). What it does not list
  is unknown, or 0 with `unlisted="absent"` (then: every finding that the column names on any line).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.files import Table
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.matching import ImageIndex
from synthaug.datasets.formats.values import (
    chexpert_labels,
    parse_age,
    parse_sex,
    parse_value,
    parse_view,
    split_name,
)
from synthaug.errors import DataError, UnknownNameError
from synthaug.findings import NO_FINDING, canonical, check
from synthaug.record import Record

# role -> headers that are taken for it, compared without case and punctuation, best first.
GUESSES: dict[str, tuple[str, ...]] = {
    "image": (
        "imageindex", "image", "imageid", "imagepath", "path", "filepath", "filename", "file", "imagename",
        "imagefile", "img", "dicomid", "name", "id",
    ),
    "findings": ("findinglabels", "findings", "labels", "label", "finding", "diagnosis", "class"),
    "patient": ("patientid", "patient", "subjectid", "subject", "patientnumber"),
    "age": ("patientage", "age", "ageyears"),
    "sex": ("patientsex", "patientgender", "sex", "gender"),
    "view": ("viewposition", "view", "projection", "appa"),
    "split": ("split", "subset", "partition"),
    "prompt": ("prompt",),
    "synthetic": ("synthetic",),
}  # fmt: skip

_ROWS_TO_TRY = 20


@dataclass(frozen=True, slots=True)
class Columns:
    """Role -> column, and finding -> column."""

    roles: Mapping[str, str]
    findings: Mapping[str, str]


SIGN = "a CSV or TSV that names the images"


def detect(root: Path) -> str | None:
    """Why a table of the folder labels its images, or None."""
    tables = _usable(root, files.find_images(root))
    if not tables:
        return None
    return "table + images: " + " or ".join(path.relative_to(root).as_posix() for path in tables)


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of a table, in its order.

    Raises:
        DataError: no table or several, a missing column, a line that cannot be read.
    """
    options = options or Options()
    images = files.find_images(root)
    return read_tables(root, [files.read_table(_table(root, images, options))], options, "csv", images)


def read_tables(
    root: Path, tables: Sequence[Table], options: Options, format: str, images: Sequence[Path] | None = None
) -> Listing:
    """The films of tables whose columns are named or guessed; the first one's columns hold for all.

    Raises:
        DataError: a missing column, a line that cannot be read.
    """
    columns = choose_columns(tables[0], options)
    for table in tables[1:]:
        table.need([*columns.roles.values(), *columns.findings.values()], format)
    rows = [place_and_row for table in tables for place_and_row in table.rows_with_place()]
    listed = listed_findings([row for _, row in rows], columns, options)

    def line(place: str, row: Mapping[str, str]) -> Line:
        return Line(
            place, row[columns.roles["image"]], lambda key: record_of(key, row, columns, options, listed)
        )

    films, left_out = join(root, (line(*place_and_row) for place_and_row in rows), options, images)
    named = {finding for film in films for finding in film.record.labels}
    findings = listing.ordered({NO_FINDING, *columns.findings, *listed, *named})
    reading = {
        "labels": ", ".join(
            table.path.relative_to(root).as_posix() if table.path.is_relative_to(root) else table.path.name
            for table in tables
        )
    }
    reading |= {f"{role} column": column for role, column in columns.roles.items()}
    reading |= {f"{finding} column": column for finding, column in columns.findings.items()}
    return Listing(format, films, findings, left_out, reading)


def _table(root: Path, images: Sequence[Path], options: Options) -> Path:
    if options.labels_csv is not None:
        given = Path(options.labels_csv).expanduser()
        for path in (root / given, given):
            if path.is_file():
                return path
        raise DataError(f"{given}: no such file (--labels-csv), neither in {root} nor by itself")
    tables = _candidates(root)
    usable = _usable(root, images) if len(tables) > 1 else tables
    if len(usable) == 1:
        return usable[0]
    if not tables and (workbooks := [path.name for path in root.iterdir() if path.suffix in files.WORKBOOKS]):
        raise DataError(
            f"{root / workbooks[0]}: an Excel workbook, expected a CSV table; save it as CSV (UTF-8) beside it"
        )
    if tables and not usable and images:
        raise DataError(_no_table_fits(root, tables, images))
    found = ", ".join(path.relative_to(root).as_posix() for path in tables) or "no CSV file"
    raise DataError(
        f"{root}: found {found}, expected one table that labels the images; name it with --labels-csv"
    )


def _no_table_fits(root: Path, tables: Sequence[Path], images: Sequence[Path]) -> str:
    listed = ", ".join(path.relative_to(root).as_posix() for path in tables)
    return (
        f"{root}: found {listed}, which name none of the {len(images)} images (called like {images[0].name}); "
        "is it the table of another data set? name the right one with --labels-csv"
    )


def _candidates(root: Path) -> list[Path]:
    return files.tables(root, "*.csv", "*.tsv", "*/*.csv", "*/*.tsv")


def _usable(root: Path, images: Sequence[Path]) -> list[Path]:
    """Tables whose columns can be guessed and that name images that are there."""
    index = ImageIndex(root, images)
    return [path for path in _candidates(root) if _labels_images(path, index)]


def _labels_images(path: Path, index: ImageIndex) -> bool:
    if _guess(files.header(path), "image") is None:
        return False
    try:
        table = files.read_table(path)
        columns = choose_columns(table, Options())
        return any(index.match(row[columns.roles["image"]]) for _, row in table.rows)
    except DataError:
        return False


def choose_columns(table: Table, options: Options) -> Columns:
    """The columns named by the options, and guesses for the others.

    Raises:
        DataError: no column for the image or for findings, or one that is not there.
    """
    roles: dict[str, str] = {}
    findings: dict[str, str] = {}
    for role, column in options.columns.items():
        if role in GUESSES:
            roles[role] = table.column(column, role)
        else:
            findings[_finding_role(role)] = table.column(column, role)
    for role in GUESSES:
        guess = _guess(table.columns, role)
        if role not in roles and guess and (role != "findings" or _lists_findings(table, guess, options)):
            roles[role] = guess
    if "image" not in roles:
        raise DataError(
            f"{table.path}: no column looks like the image's name; columns are {', '.join(table.columns)}; "
            "say which with --column image=NAME (columns={'image': NAME})"
        )
    taken = {*roles.values(), *findings.values()}
    for column in table.columns:
        name = _canonical(column, options.names)
        if name and name not in findings and column not in taken:
            findings[name] = column
    if not findings and "findings" not in roles:
        raise DataError(
            f"{table.path}: no column holds findings; columns are {', '.join(table.columns)}; say which with "
            "--column findings=NAME (one column that lists them) or --column FINDING=NAME (one column each)"
        )
    return Columns(roles, findings)


def _finding_role(role: str) -> str:
    try:
        return canonical(role)
    except UnknownNameError as error:
        raise UnknownNameError("column role or finding", role, (*GUESSES, *error.known)) from error


def _guess(columns: Iterable[str], role: str) -> str | None:
    plain = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in columns}
    return next((plain[name] for name in GUESSES[role] if name in plain), None)


def _lists_findings(table: Table, column: str, options: Options) -> bool:
    """Whether a column's first values are names of findings rather than numbers or text."""
    values = islice((row[column] for _, row in table.rows if row[column]), _ROWS_TO_TRY)
    return any(_canonical(name, options.names) for value in values for name in _names(value))


def _canonical(name: str, names: Mapping[str, str | None]) -> str | None:
    given = names.get(name, name)
    try:
        return None if given is None else canonical(given)
    except UnknownNameError:
        return None


def _names(value: str) -> list[str]:
    return [name for part in re.split(r"[|;,]", value.strip("[]")) if (name := part.strip(" '\""))]


def listed_findings(rows: Iterable[Mapping[str, str]], columns: Columns, options: Options) -> set[str]:
    """Every finding that the findings column names on any line."""
    column = columns.roles.get("findings")
    values = {row[column] for row in rows} if column else set()
    found = {_canonical(name, options.names) for value in values for name in _names(value)}
    return {finding for finding in found if finding}


def record_of(
    key: str, row: Mapping[str, str], columns: Columns, options: Options, listed: Iterable[str]
) -> Record:
    """The record of a row; `listed` are the findings that stand for "unlisted" ones.

    Raises:
        DataError, LabelError, UnknownNameError: a cell that makes no sense.
    """
    roles = columns.roles
    labels = {finding: _value(row, column, options) for finding, column in columns.findings.items()}
    if "findings" in roles:
        given = [options.names.get(name, name) for name in _names(row[roles["findings"]])]
        positives = {canonical(name) for name in given if name is not None}
        if positives and options.unlisted == "absent":
            labels = {finding: 0.0 for finding in listed} | labels
        labels |= {finding: 1.0 for finding in positives}
    return Record(
        key,
        check(chexpert_labels(labels)),
        view=parse_view(row[roles["view"]]) if "view" in roles else None,
        age=parse_age(row[roles["age"]]) if "age" in roles else None,
        sex=parse_sex(row[roles["sex"]]) if "sex" in roles else None,
        patient=(row[roles["patient"]] or None) if "patient" in roles else None,
        prompt=(row[roles["prompt"]] or None) if "prompt" in roles else None,
        synthetic=_truth(row[roles["synthetic"]]) if "synthetic" in roles else False,
        provenance={"split": split_name(row[roles["split"]])} if row.get(roles.get("split", "")) else {},
    )


def _value(row: Mapping[str, str], column: str, options: Options) -> float:
    try:
        return parse_value(row[column], options.uncertain)
    except DataError as error:
        raise DataError(f"column {column!r}: {error}") from error


def _truth(text: str) -> bool:
    plain = text.lower()
    if plain not in ("true", "false", "1", "0", ""):
        raise DataError(f"found synthetic {text!r}, expected true or false")
    return plain in ("true", "1")
