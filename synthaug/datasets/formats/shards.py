"""Folders of shards: what `synthaug generate` and `synthaug pack` write (see `synthaug.shards`)."""

from dataclasses import dataclass
from pathlib import Path

from synthaug.datasets.formats import listing
from synthaug.datasets.formats.listing import Film, Listing, Options
from synthaug.shards import ShardSet
from synthaug.shards.manifest import MANIFEST


@dataclass(frozen=True, slots=True)
class ShardFilm(Film):
    """A film inside a shard: sample `number` of `shards`; its path is the folder's."""

    shards: ShardSet
    number: int

    @property
    def name(self) -> str:
        return f"{self.path}: {self.record.key}"

    def source(self) -> bytes:
        return self.shards[self.number][1]


SIGN = MANIFEST


def detect(root: Path) -> str | None:
    """Why the folder holds shards, or None."""
    return f"shards: {MANIFEST}" if (root / MANIFEST).is_file() else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of a folder of shards, in order.

    Raises:
        DataError: no manifest, or no sample.
        CorruptShardError: the manifest, an index or a record is damaged.
    """
    shards = ShardSet(root)
    films = [ShardFilm(root, record, shards, number) for number, record in enumerate(shards.records())]
    reading = {"manifest": f"{len(shards.manifest.shards)} shards"}
    return Listing("shards", listing.some_films(films, root, {}), shards.findings, {}, reading)
