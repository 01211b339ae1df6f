"""The films that a finding is inserted into: a folder in any known layout, a folder of plain images, or one file.

Of a film only what describes the picture goes on: its key, its labels, its view and whether it is synthetic. Patient, age,
sex and reports stay where they are. A film whose labels already say the finding is left out.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np

from synthaug import findings as vocabulary
from synthaug import images
from synthaug.datasets import open_radiographs
from synthaug.datasets.base import Radiographs
from synthaug.datasets.formats import detect
from synthaug.datasets.formats.files import find_images
from synthaug.datasets.splits import part_of
from synthaug.errors import DataError, UserError

FIT = "crop"


@dataclass(frozen=True)
class SourceFilm:
    """One film; `group` names what films of one patient share, for intervals, and is never written."""

    key: str
    synthetic: bool
    labels: dict[str, float]
    view: str | None
    group: str
    read: Callable[[], np.ndarray]

    def pixels(self, size: int) -> np.ndarray:
        """uint8 (size, size), the centre square of the film."""
        return images.resize(self.read(), size, FIT)


def source_films(
    into: Path, finding: str, split: str | None = None, splits_file: str = "nih-sample"
) -> list[SourceFilm]:
    """The films that do not have the finding yet, in the order of their folder; of one part of a split where one is named.

    Raises:
        DataError: no such film; also what the folder's layout raises.
        UserError: a part of films that no split can name.
    """
    plain = into.is_file() or (into.is_dir() and detect(into) is None)
    if split is not None and plain:
        raise UserError(f"--split {split}: is for films in a known layout, and --into {into} is none")
    if into.is_file():
        return [_plain(into, into.stem, finding)]
    if plain and (pictures := find_images(into)):
        named = [(path, path.relative_to(into).with_suffix("").as_posix()) for path in sorted(pictures)]
        return [_plain(path, key, finding) for path, key in named]
    films: Radiographs = open_radiographs(into)
    if split is not None:
        films = part_of(films, split, splits_file)
    names = [*films.findings, *(n for n in (finding, vocabulary.NO_FINDING) if n not in films.findings)]

    def film(index: int) -> SourceFilm:
        record = films.records[index]
        labels = vocabulary.check({**dict.fromkeys(names, nan), **record.labels})
        return SourceFilm(
            key=record.key,
            synthetic=record.synthetic,
            labels={name: labels[name] for name in names},
            view=record.view,
            group=record.patient or f"film:{record.key}",
            read=lambda: films.image(index),
        )

    kept = [one for one in map(film, range(len(films))) if one.labels[finding] != 1]
    if not kept:
        raise DataError(
            f"--into {into}: all {len(films)} films have {finding} already; give films without it"
        )
    return kept


def digest_of(films: Sequence[SourceFilm]) -> str:
    """SHA-256 over the films' keys and labels: what a begun run is resumed by."""
    told = [[film.key, sorted(name for name, value in film.labels.items() if value == 1)] for film in films]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def read_mask(path: Path, size: int) -> np.ndarray:
    """A mask file as bool (size, size): what is brighter than half may change; brought to a square as films are.

    Raises:
        ImageError: it cannot be read.
    """
    return images.resize(images.read(path), size, FIT) > 127


def _plain(path: Path, key: str, finding: str) -> SourceFilm:
    labels = {finding: nan, vocabulary.NO_FINDING: nan}
    return SourceFilm(key, False, labels, None, f"film:{key}", lambda: images.read(path))
