"""Any table + images: one line a film, matched to the images by stem.

Columns are named by `Options.columns` or guessed from their headers; `Listing.reading` shows the choice.
Labels come from either kind of column, or both:

- one column a finding, holding 1, 0, -1 (CheXpert's "uncertain": unknown) or nothing (unknown);
- one column that lists findings ("Effusion|Mass", separators | , ; or a Python list). What it does not list
  is unknown, or 0 with `unlisted="absent"` (then: every finding that the column names on any line).

CheXpert's "No Finding" allows support devices, this vocabulary's `no_finding` does not: a line with both has
`no_finding` = 0, and 0 for the other findings it leaves empty, which is what its "No Finding" meant.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.files import ImageIndex, Table
from synthaug.datasets.formats.listing import Film, Listing, Options
from synthaug.datasets.formats.values import parse_age, parse_sex, parse_value, parse_view, split_name
from synthaug.errors import DataError, LabelError, UnknownNameError
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
}  # fmt: skip

_ROWS_TO_TRY = 20


@dataclass(frozen=True, slots=True)
class _Columns:
    """Role -> column, and finding -> column."""

    roles: Mapping[str, str]
    findings: Mapping[str, str]


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
    table = files.read_table(_table(root, images, options))
    columns = _columns(table, options)
    index = ImageIndex(root, images)
    rows: list[tuple[str, Mapping[str, str], Path]] = []
    without_image: list[str] = []
    bad: dict[Path, str] = {}
    for place, row in table.rows_with_place():
        path = index.match(row[columns.roles["image"]])
        if path is None:
            without_image.append(row[columns.roles["image"]])
        else:
            rows.append((place, row, path))
    listed = _listed(rows, columns, options)
    keys = dict(zip(images, files.keys_of(root, images), strict=True))
    films: dict[Path, Film] = {}
    for place, row, path in rows:
        try:
            if path in films:
                raise DataError(f"{path.name} has a line already; expected one line a film")
            films[path] = Film(path, _record(keys[path], row, columns, options, listed))
        except (DataError, LabelError, UnknownNameError) as error:
            if not options.skip_bad:
                raise DataError(f"{place}: {error}; --skip-bad leaves such lines out") from error
            bad[path] = keys[path]
    unlabelled = [keys[path] for path in images if path not in films and path not in bad]
    left_out = listing.left_out(
        [
            (listing.ROW_WITHOUT_IMAGE, without_image),
            (listing.IMAGE_WITHOUT_ROW, unlabelled),
            (listing.BAD_ROW, list(bad.values())),
        ]
    )
    named = {finding for film in films.values() for finding in film.record.labels}
    findings = listing.ordered({NO_FINDING, *columns.findings, *listed, *named})
    reading = {"labels": table.path.name}
    reading |= {f"{role} column": column for role, column in columns.roles.items()}
    reading |= {f"{finding} column": column for finding, column in columns.findings.items()}
    return Listing(
        "csv", listing.some_films(list(films.values()), root, left_out), findings, left_out, reading
    )


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
    found = ", ".join(path.relative_to(root).as_posix() for path in tables) or "no CSV file"
    raise DataError(
        f"{root}: found {found}, expected one table that labels the images; name it with --labels-csv"
    )


def _candidates(root: Path) -> list[Path]:
    found = (path for pattern in ("*.csv", "*.tsv", "*/*.csv", "*/*.tsv") for path in root.glob(pattern))
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _usable(root: Path, images: Sequence[Path]) -> list[Path]:
    """Tables whose columns can be guessed and that name images that are there."""
    index = ImageIndex(root, images)
    return [path for path in _candidates(root) if _labels_images(path, index)]


def _labels_images(path: Path, index: ImageIndex) -> bool:
    if _guess(files.header(path), "image") is None:
        return False
    try:
        table = files.read_table(path)
        columns = _columns(table, Options())
        return any(index.match(row[columns.roles["image"]]) for _, row in table.rows)
    except DataError:
        return False


def _columns(table: Table, options: Options) -> _Columns:
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
    return _Columns(roles, findings)


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


def _listed(
    rows: Iterable[tuple[str, Mapping[str, str], Path]], columns: _Columns, options: Options
) -> set[str]:
    """Every finding that the findings column names on any line."""
    column = columns.roles.get("findings")
    values = {row[column] for _, row, _ in rows} if column else set()
    found = {_canonical(name, options.names) for value in values for name in _names(value)}
    return {finding for finding in found if finding}


def _record(
    key: str, row: Mapping[str, str], columns: _Columns, options: Options, listed: Iterable[str]
) -> Record:
    roles = columns.roles
    labels = {finding: _value(row, column) for finding, column in columns.findings.items()}
    if "findings" in roles:
        given = [options.names.get(name, name) for name in _names(row[roles["findings"]])]
        positives = {canonical(name) for name in given if name is not None}
        if positives and options.unlisted == "absent":
            labels = {finding: 0.0 for finding in listed} | labels
        labels |= {finding: 1.0 for finding in positives}
    return Record(
        key,
        check(_chexpert(labels)),
        view=parse_view(row[roles["view"]]) if "view" in roles else None,
        age=parse_age(row[roles["age"]]) if "age" in roles else None,
        sex=parse_sex(row[roles["sex"]]) if "sex" in roles else None,
        patient=(row[roles["patient"]] or None) if "patient" in roles else None,
        provenance={"split": split_name(row[roles["split"]])} if row.get(roles.get("split", "")) else {},
    )


def _value(row: Mapping[str, str], column: str) -> float:
    try:
        return parse_value(row[column])
    except DataError as error:
        raise DataError(f"column {column!r}: {error}") from error


def _chexpert(labels: Mapping[str, float]) -> dict[str, float]:
    positives = {finding for finding, value in labels.items() if value == 1.0}
    if positives != {NO_FINDING, "support_devices"}:
        return dict(labels)
    return {finding: float(finding == "support_devices") for finding in labels}
