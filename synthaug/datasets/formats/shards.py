"""Folders of shards: what `synthaug generate` and `synthaug pack` write (see `synthaug.shards`).

Films are views into the shards: a record is read when it is asked for, so that a million films open at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthaug.datasets.formats import listing
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.errors import DataError
from synthaug.record import Record
from synthaug.shards import ShardSet, local_path
from synthaug.shards.manifest import MANIFEST

SIGN = MANIFEST


@dataclass(frozen=True, slots=True)
class ShardFilm:
    """A film inside a shard: sample `number` of `shards`; its path is the folder's, or its URL.

    Its `record` is read from the shard at each use. `synthetic` is what the data set promises of its films:
    a record that says otherwise raises.
    """

    path: Path | str
    shards: ShardSet
    number: int
    synthetic: bool | None = None

    @property
    def record(self) -> Record:
        return checked(self.shards.record(self.number), self.path, self.synthetic)

    @property
    def name(self) -> str:
        return f"{self.path}: {self.shards.key(self.number)}"

    def source(self) -> bytes:
        record, data = self.shards[self.number]
        checked(record, self.path, self.synthetic)
        return data


class ShardFilms(Sequence[ShardFilm]):
    """The films of a folder of shards, or some of them, in any order.

    Args:
        shards: the folder.
        numbers: (n,) of its samples; all of them when None.
        synthetic: see `ShardFilm`.
    """

    def __init__(
        self, shards: ShardSet, numbers: np.ndarray | None = None, synthetic: bool | None = None
    ) -> None:
        self.shards, self.synthetic = shards, synthetic
        self.numbers = np.arange(len(shards)) if numbers is None else np.asarray(numbers, np.int64)
        self._all = numbers is None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        if isinstance(place, slice):
            return ShardFilms(self.shards, self.numbers[place], self.synthetic)
        return self._film(self.numbers[place])

    def __iter__(self) -> Iterator[ShardFilm]:
        return map(self._film, self.numbers)

    def take(self, places: Iterable[int] | np.ndarray) -> "ShardFilms":
        """The films at these places."""
        return ShardFilms(self.shards, self.numbers[np.asarray(places, np.int64)], self.synthetic)

    def promised(self, synthetic: bool) -> "ShardFilms":
        """The same films, each of which must be synthetic, or must not be."""
        return ShardFilms(self.shards, None if self._all else self.numbers, synthetic)

    def records(self) -> list[Record]:
        """Every film's record; from front to back when the films are all of the folder's, in order."""
        if self._all:
            return [
                checked(record, self.shards.storage.root, self.synthetic) for record in self.shards.records()
            ]
        return [film.record for film in self]

    def labels(self, findings: Sequence[str]) -> np.ndarray:
        """Labels by the indexes alone, (n, f) float32."""
        found = self.shards.labels(findings)
        return found if self._all else found[self.numbers]

    def keys(self) -> list[str]:
        """Every film's key, by the indexes alone."""
        found = self.shards.keys
        return list(found) if self._all else [found[number] for number in self.numbers]

    def _film(self, number: int) -> ShardFilm:
        root = self.shards.storage.root
        return ShardFilm(local_path(root) or root, self.shards, int(number), self.synthetic)


def checked(record: Record, root: Path | str, synthetic: bool | None) -> Record:
    """The record, once it is sure that it is what the data set promises.

    Raises:
        DataError: a real film among synthetic ones, or the other way round.
    """
    if synthetic is None or record.synthetic == synthetic:
        return record
    kind, other = ("synthetic", "SyntheticRadiographs (--synthetic)") if record.synthetic else (
        "real", "RealRadiographs (--real)"
    )  # fmt: skip
    raise DataError(f"{root}: film {record.key} is {kind}; open the folder as {other}")


def detect(root: Path) -> str | None:
    """Why the folder holds shards, or None."""
    return f"shards: {MANIFEST}" if (root / MANIFEST).is_file() else None


def read(root: Path | str, options: Options | None = None) -> Listing:
    """The films of a folder of shards, by path or URL, in order.

    Raises:
        DataError: no manifest, or no sample.
        CorruptShardError: the manifest or an index is damaged, and later a record.
    """
    shards = ShardSet(root)
    films = ShardFilms(shards)
    if not films:
        listing.some_films([], root, {})
    reading = {"manifest": f"{len(shards.manifest.shards)} shards"}
    return Listing("shards", films, shards.findings, {}, reading)
