"""Targets of PNG files and one CSV table, which is written last."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from synthaug.datasets.base import Radiographs
from synthaug.datasets.export import rows
from synthaug.datasets.formats.chexpert import COLUMNS
from synthaug.findings import canonical
from synthaug.shards import atomic_write
from synthaug.tables import csv_text

Progress = Callable[[int, int], None]

_VIEWS = {"PA": ("Frontal", "PA"), "AP": ("Frontal", "AP"), "lateral": ("Lateral", ""), None: ("Frontal", "")}
_SEXES = {"F": "Female", "M": "Male", None: "Unknown"}


def csv(films: Radiographs, out: Path, progress: Progress) -> None:
    """`labels.csv` (image, facts, a column a finding: 1, 0 or nothing) and `images/`."""
    paths = [f"images/{stem}.png" for stem in rows.stems(films)]
    _images(films, out, paths, progress)
    _table(out / "labels.csv", films, "image", paths)


def imagefolder(films: Radiographs, out: Path, progress: Progress) -> None:
    """A folder a combination of present findings ("edema+mass", "no_finding", "unlabelled") and `metadata.csv`."""
    paths = [
        f"{_folder(rows.labels(films, place))}/{stem}.png" for place, stem in enumerate(rows.stems(films))
    ]
    _images(films, out, paths, progress)
    _table(out / "metadata.csv", films, "file_name", paths)


def torchxrayvision(films: Radiographs, out: Path, progress: Progress) -> None:
    """CheXpert's layout, which `xrv.datasets.CheX_Dataset` reads; findings outside CheXpert are further columns.

    A patient gets a number; a film of unknown patient gets one of its own. CheX_Dataset takes the views it is
    asked for by name, so films of unknown view need `views=[nan]` there.
    """
    numbers: dict[str, int] = {}
    paths = []
    for place, patient in enumerate(films.patients):
        number = numbers.setdefault(
            f"film {place}" if patient is None else f"patient {patient}", len(numbers) + 1
        )
        paths.append(f"train/patient{number:05d}/study{place + 1}/view1_frontal.png")
    _images(films, out, paths, progress)
    own = {canonical(column): column for column in COLUMNS}
    others = [finding for finding in films.findings if finding not in own]
    lines = []
    for place, path in enumerate(paths):
        known, labels = rows.facts(films, place), rows.labels(films, place)
        view = _VIEWS[known["view"]]
        facts = [f"CheXpert-v1.0-small/{path}", _SEXES[known["sex"]], rows.cell(known["age"]), *view]
        values = [rows.cell(labels.get(finding)) for finding in (*own, *others)]
        lines.append([*facts, *values])
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *own.values(), *others]
    atomic_write(out / "train.csv", csv_text(lines, header).encode())


def _images(films: Radiographs, out: Path, paths: Sequence[str], progress: Progress) -> None:
    for place, path in enumerate(paths):
        if not (out / path).is_file():
            rows.put(out / path, rows.png(films, place))
        progress(place + 1, len(paths))


def _table(path: Path, films: Radiographs, column: str, paths: Sequence[str]) -> None:
    lines: list[list[Any]] = []
    for place, image in enumerate(paths):
        known = rows.facts(films, place)
        values = [*known.values(), *rows.labels(films, place).values()]
        lines.append([image, *(rows.cell(value) for value in values)])
    atomic_write(path, csv_text(lines, [column, *rows.FACTS, *films.findings]).encode())


def _folder(labels: dict[str, int | None]) -> str:
    return "+".join(finding for finding, value in labels.items() if value == 1)[:200] or "unlabelled"
