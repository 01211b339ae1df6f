"""Folders out of folders: merged, split by patient, without near-duplicates. What is written is shards (see
`synthaug.datasets.packing`) or a split file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from synthaug.datasets.formats.listing import AnyFilm
from synthaug.datasets.likeness import CORRELATION, Pair, near_pairs, prints_of
from synthaug.datasets.packing import Packing, pack
from synthaug.errors import DataError
from synthaug.record import Record
from synthaug.shards import Manifest

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Renamed:
    """A film whose patient, or other facts, are told otherwise; its pixels are the film's own."""

    film: AnyFilm
    patient: str | None

    @property
    def path(self) -> Path | str:
        return self.film.path

    @property
    def record(self) -> Record:
        return replace(self.film.record, patient=self.patient)

    @property
    def name(self) -> str:
        return self.film.name

    def source(self) -> Path | bytes:
        return self.film.source()


def merge(
    folders: Mapping[str, Sequence[AnyFilm]],
    out: str | Path,
    patients: Literal["refuse", "same", "apart"] = "refuse",
    packing: Packing | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """One folder of shards out of several data sets, one after the other; the same call resumes.

    Args:
        folders: name -> films, of which at least two are needed.
        out: the folder.
        patients: what a patient's identifier that stands in two data sets means: "same" patient, two patients to
            be kept "apart" (identifiers get the data set's number in front), or a question that only the user
            can answer ("refuse").
        packing, processes, progress: as in `pack`.

    Raises:
        DataError: fewer than two data sets, shared identifiers with "refuse", real and synthetic films.
        OutputFolderError, DiskFullError: as in `pack`.
    """
    if len(folders) < 2:
        raise DataError(f"merge: found {len(folders)} data sets, expected two or more")
    known = {
        name: {patient for film in films if (patient := film.record.patient) is not None}
        for name, films in folders.items()
    }
    for one, other in combinations(known, 2):
        if patients == "refuse" and (shared := known[one] & known[other]):
            raise DataError(
                f"{len(shared)} patient ids, such as {min(shared)}, stand both in {one} and in {other}; --patients same "
                "says that they are the same people, --patients apart that they are not"
            )
    merged: list[AnyFilm] = []
    for number, films in enumerate(folders.values()):
        for film in films:
            patient = film.record.patient
            apart = patients == "apart" and patient is not None
            merged.append(Renamed(film, f"{number}-{patient}") if apart else film)
    return pack(merged, out, packing, processes, progress, merged=[len(films) for films in folders.values()])


def groups(count: int, pairs: Sequence[Pair]) -> list[list[int]]:
    """Films that are near-duplicates of each other, directly or over others: sorted groups of two or more."""
    parent = list(range(count))

    def root(film: int) -> int:
        while parent[film] != film:
            parent[film] = parent[parent[film]]
            film = parent[film]
        return film

    for pair in pairs:
        one, other = sorted((root(pair.first), root(pair.second)))
        parent[other] = one
    members: dict[int, list[int]] = {}
    for film in range(count):
        members.setdefault(root(film), []).append(film)
    return [group for group in members.values() if len(group) > 1]


def duplicates(
    films: Sequence[AnyFilm], correlation: float = CORRELATION, progress: Progress | None = None
) -> list[list[int]]:
    """Groups of near-duplicate films within a data set; the first of a group is the one to keep.

    Raises:
        ImageError: a film cannot be read.
    """
    return groups(len(films), near_pairs(prints_of(films, progress), correlation=correlation))
