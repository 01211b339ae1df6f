"""Splits by patient: all films of a patient lie in one part.

A split file is a CSV with the columns image (a file name; its stem counts) and part. Files that travel with
the package are named without a suffix: `load_split("nih-sample")`. Films not named there are in no part.
"""

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Protocol, Self, TypeVar

import numpy as np

from synthaug.datasets.formats.files import IMAGE_SUFFIXES, read_table
from synthaug.errors import DataError, UnknownNameError
from synthaug.shards import atomic_write


class Patients(Protocol):
    """What is split: a data set."""

    @property
    def patients(self) -> Sequence[str | None]: ...

    @property
    def keys(self) -> Sequence[str]: ...


class Subsets(Patients, Protocol):
    """A data set that can be cut down to some of its films."""

    def subset(self, indices: np.ndarray, /) -> Self: ...


Films = TypeVar("Films", bound=Subsets)


def split_patients(
    films: Patients, fractions: Mapping[str, float], seed: int = 0, by_film: bool = False
) -> dict[str, np.ndarray]:
    """Split films by patient.

    Patients are put in the order of SHA-256("seed:patient"), whatever the films' order, and cut there; each
    part gets its share of the patients, to the nearest whole one.

    Args:
        films: a data set.
        fractions: part -> share of the patients; what they leave of 1 is in no part.
        seed: another seed, another split.
        by_film: treat a film whose patient is unknown as a patient of its own.

    Returns:
        part -> sorted indices of its films.

    Raises:
        DataError: shares that are not positive or exceed 1, a part that comes out empty, or films of unknown
            patients without `by_film`: one patient's films could then lie in two parts.
    """
    shares = list(fractions.values())
    if not shares or not all(share > 0 for share in shares) or math.fsum(shares) > 1 + 1e-9:
        raise DataError(
            f"fractions: found {dict(fractions)}, expected positive shares that add up to 1 at most"
        )
    unknown = sum(patient is None for patient in films.patients)
    if unknown and not by_film:
        raise DataError(
            f"{unknown} of {len(films.keys)} films have no patient, so one patient's films could lie in two "
            "parts; by_film=True splits them as if each were a patient of its own"
        )
    owners = [
        f"film:{key}" if patient is None else f"patient:{patient}"
        for patient, key in zip(films.patients, films.keys, strict=True)
    ]
    people = sorted(set(owners), key=lambda owner: hashlib.sha256(f"{seed}:{owner}".encode()).digest())
    cuts = [0, *(round(len(people) * math.fsum(shares[: i + 1])) for i in range(len(shares)))]
    parts = {}
    for part, (start, stop) in zip(fractions, pairwise(cuts), strict=True):
        if start == stop:
            raise DataError(
                f"the part {part!r} comes out empty: {fractions[part]:g} of {len(people)} patients"
            )
        inside = set(people[start:stop])
        parts[part] = np.array([i for i, owner in enumerate(owners) if owner in inside], dtype=np.int64)
    return parts


def packaged_splits() -> list[str]:
    """Names of the split files that travel with the package."""
    folder = files("synthaug").joinpath("assets", "splits")
    if not folder.is_dir():
        return []
    return sorted(
        entry.name.removesuffix(".csv") for entry in folder.iterdir() if entry.name.endswith(".csv")
    )


def load_split(name_or_path: str | Path) -> dict[str, tuple[str, ...]]:
    """A split file as part -> keys of its films (file names without the suffix), in the file's order.

    Args:
        name_or_path: "nih-sample", or a CSV file.

    Raises:
        UnknownNameError: no such file, and none of that name travels with the package.
        DataError: not a split file.
    """
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if path.is_file():
        return _parts(path)
    if name not in packaged_splits():
        raise UnknownNameError("split file", name, packaged_splits())
    with as_file(files("synthaug").joinpath("assets", "splits", f"{name}.csv")) as packaged:
        return _parts(packaged)


def parts_of(films: Patients, split: str | Path) -> dict[str, np.ndarray]:
    """Part -> sorted indices of the films of a data set that a split file names, matched by key or file stem.

    Empty where the split names none of them: it says nothing of this data set.

    Raises:
        UnknownNameError, DataError: as in `load_split`.
    """
    part_by_key = {key: part for part, keys in load_split(split).items() for key in keys}
    found: dict[str, list[int]] = {}
    for index, key in enumerate(films.keys):
        part = part_by_key.get(key) or part_by_key.get(PurePosixPath(key).name)
        if part is not None:
            found.setdefault(part, []).append(index)
    return {part: np.array(indices, dtype=np.int64) for part, indices in found.items()}


def part_of(films: Films, part: str, split: str | Path) -> Films:
    """The films of one part of a split file; all of them where the split names none.

    Raises:
        DataError: the split names films of this data set, and none in that part.
        UnknownNameError: no part of that name in the split file, or no such file.
    """
    parts = parts_of(films, split)
    known = load_split(split)
    if part not in known:
        raise UnknownNameError("part", part, known)
    if not parts:
        return films
    if part not in parts:
        raise DataError(
            f"--split {part}: {split} names films of this folder in {', '.join(sorted(parts))} only"
        )
    return films.subset(parts[part])


def write_split(path: str | Path, films: Patients, parts: Mapping[str, Sequence[int] | np.ndarray]) -> None:
    """Write a split file that `load_split` reads back.

    Raises:
        DiskFullError, OutputFolderError: it cannot be written.
    """
    keys = films.keys
    rows = sorted((keys[index], part) for part, indices in parts.items() for index in indices)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("image", "part"), *rows])
    atomic_write(path, text.getvalue().encode())


def _parts(path: Path) -> dict[str, tuple[str, ...]]:
    table = read_table(path)
    for column in ("image", "part"):
        if column not in table.columns:
            raise DataError(
                f"{path}: no column {column!r}, expected a split file with the columns image and part"
            )
    part_of: dict[str, str] = {}
    for place, row in table.rows_with_place():
        image, part = _stem(row["image"]), row["part"]
        if not image or not part:
            raise DataError(f"{place}: found {row['image']!r}, {part!r}, expected an image and its part")
        if part_of.setdefault(image, part) != part:
            raise DataError(f"{place}: {image} is both in {part_of[image]} and in {part}")
    parts: dict[str, list[str]] = {}
    for image, part in part_of.items():
        parts.setdefault(part, []).append(image)
    return {part: tuple(images) for part, images in parts.items()}


def _stem(name: str) -> str:
    """The key of a film: the name without the suffix of an image file; folders stay, as they do in keys."""
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in IMAGE_SUFFIXES else name
