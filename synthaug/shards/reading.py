"""Reading shards: by index (`ShardSet`) or from front to back (`stream`)."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from synthaug import findings as vocabulary
from synthaug.errors import CorruptShardError, SynthaugError
from synthaug.record import Record
from synthaug.shards.index import REBUILD, Index, samples
from synthaug.shards.manifest import Manifest, ShardEntry, read_manifest
from synthaug.shards.storage import Hashing, Storage, open_storage
from synthaug.shards.tar import BLOCK, Readable

AT_ONCE = 256  # records asked for together


class ShardSet:
    """A folder of shards with random access: `shards[i]` is (record, encoded image).

    Indexes are read, and checked against the manifest, when first needed. Each access opens its tar
    and closes it again, so that a ShardSet travels to DataLoader workers like a plain value. In a store,
    a sample is one request for its range of bytes.

    Args:
        folder: with a `manifest.json`; a path or URL.

    Raises:
        DataError: no manifest there.
        CorruptShardError: the manifest, or later an index or sample, is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.storage = open_storage(folder)
        self.manifest: Manifest = read_manifest(folder)
        self._ends = list(accumulate(entry.count for entry in self.manifest.shards))
        self._indexes: dict[str, Index] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_indexes": {}}  # a worker reads those that it needs

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> tuple[Record, bytes]:
        entry, row = self._place(i)
        index = self._index(entry)
        text, text_size, image, image_size = index.places[row].tolist()
        start, end = min(text, image), max(text + text_size, image + image_size)
        if end - start > text_size + image_size + 2 * BLOCK:  # the two are neighbours
            raise self._misplaced(entry, index, row)
        (data,) = self._ranges(entry, [(start, end - start)])
        if len(data) != end - start:
            raise self._misplaced(entry, index, row)
        record = self._record(entry, index, row, data[text - start :][:text_size])
        return record, data[image - start :][:image_size]

    def record(self, i: int) -> Record:
        """The record of one sample; its image is not read.

        Raises:
            IndexError: there is no such sample.
            CorruptShardError: the index or the sample is damaged.
        """
        entry, row = self._place(i)
        index = self._index(entry)
        offset, size = index.places[row, :2].tolist()
        return self._record(entry, index, row, *self._ranges(entry, [(offset, size)]))

    def key(self, i: int) -> str:
        """The key of one sample, by its index."""
        entry, row = self._place(i)
        return self._index(entry).keys[row]

    def _place(self, i: int) -> tuple[ShardEntry, int]:
        if i < 0:
            i += len(self)
        if not 0 <= i < len(self):
            raise IndexError(f"{self.storage.root}: sample {i} of {len(self)}")
        shard = bisect_right(self._ends, i)
        entry = self.manifest.shards[shard]
        return entry, i - (self._ends[shard] - entry.count)

    def _record(self, entry: ShardEntry, index: Index, row: int, text: bytes) -> Record:
        try:
            record = Record.from_bytes(text)
        except SynthaugError as error:
            raise CorruptShardError(
                f"{self.storage.where(entry.name)}: sample {index.keys[row]}: {error}"
            ) from error
        if record.key != index.keys[row]:
            raise self._misplaced(entry, index, row)
        return record

    def _misplaced(self, entry: ShardEntry, index: Index, row: int) -> CorruptShardError:
        return CorruptShardError(
            f"{self.storage.where(entry.name)}: sample {index.keys[row]} is not where its index says; {REBUILD}"
        )

    @property
    def keys(self) -> list[str]:
        """Every sample's key."""
        return [key for entry in self.manifest.shards for key in self._index(entry).keys]

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings that any record names, in the vocabulary's order."""
        return named_findings(self._index(entry) for entry in self.manifest.shards)

    def labels(self, findings: Sequence[str]) -> np.ndarray:
        """Labels, (n, f) float32, NaN where unknown; no image or JSON is read. See `findings.vector`.

        Raises:
            UnknownNameError: a finding is not known.
        """
        names = [vocabulary.canonical(finding) for finding in findings]
        parts = [_labels(self._index(entry), names) for entry in self.manifest.shards]
        return np.concatenate([np.zeros((0, len(names)), np.float32), *parts])

    def records(self) -> Iterator[Record]:
        """Every record in order, without reading the images."""
        for entry in self.manifest.shards:
            places = [(int(offset), int(size)) for offset, size, _, _ in self._index(entry).places]
            for start in range(0, len(places), AT_ONCE):
                for text in self._ranges(entry, places[start : start + AT_ONCE]):
                    try:
                        yield Record.from_bytes(text)
                    except SynthaugError as error:
                        raise CorruptShardError(f"{self.storage.where(entry.name)}: {error}") from error

    def _ranges(self, entry: ShardEntry, places: Sequence[tuple[int, int]]) -> list[bytes]:
        try:
            return self.storage.ranges(entry.name, places)
        except OSError as error:
            raise _unreadable(self.storage.where(entry.name), error) from error

    def _index(self, entry: ShardEntry) -> Index:
        if entry.name not in self._indexes:
            self._indexes[entry.name] = read_index(self.storage, entry)
        return self._indexes[entry.name]


def stream(
    folder: str | Path,
    worker: int = 0,
    workers: int = 1,
    opener: Callable[[str], BinaryIO] | None = None,
) -> Iterator[tuple[Record, bytes]]:
    """The samples of a folder from front to back; each shard is hashed as it is read.

    Args:
        folder: with a `manifest.json`; a path or a URL.
        worker: this reader's number; it reads every `workers`-th shard.
        workers: readers in all.
        opener: opens a shard's tar by name; the folder's own file when None.

    Raises:
        DataError: no manifest there.
        CorruptShardError: a shard is damaged; the samples before the damage have been given.
    """
    storage = open_storage(folder)
    for entry in read_manifest(folder).shards[worker::workers]:
        yield from read_shard(storage, entry, opener)


def read_shard(
    storage: Storage, entry: ShardEntry, opener: Callable[[str], BinaryIO] | None = None
) -> Iterator[tuple[Record, bytes]]:
    """The samples of one shard from front to back; it is hashed as it is read.

    Raises:
        CorruptShardError: the shard is damaged or out of reach; the samples before that have been given.
    """
    path = storage.where(entry.name)
    try:
        with opener(entry.name) if opener else storage.open(entry.name) as file:
            hashing, count = Hashing(file), 0
            for pair in read_samples(hashing, path):
                yield pair
                count += 1
            digest = hashing.to_end()
    except OSError as error:
        raise _unreadable(path, error) from error
    if digest != entry.sha256 or count != entry.count:
        raise CorruptShardError(
            f"{path}: not the bytes that the manifest lists; run `synthaug verify {storage.root}`"
        )


def read_index(storage: Storage, entry: ShardEntry) -> Index:
    """The index of one shard, checked against the manifest.

    Raises:
        CorruptShardError: missing, or another one.
    """
    path = storage.where(entry.index_name)
    try:
        data = storage.read(entry.index_name)
    except OSError as error:
        raise CorruptShardError(f"{path}: cannot be read ({error.strerror}); {REBUILD}") from error
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        raise CorruptShardError(f"{path}: not the index that the manifest lists; {REBUILD}")
    index = Index.from_bytes(data, path)
    if len(index.keys) != entry.count:
        raise CorruptShardError(f"{path}: found {len(index.keys)} samples, the manifest says {entry.count}")
    return index


def named_findings(indexes: Iterable[Index]) -> tuple[str, ...]:
    """The findings that any record names, in the vocabulary's order."""
    named = {name for index in indexes for name in index.findings}
    known = [finding for finding in vocabulary.FINDINGS if finding in named]
    return (*known, *sorted(named.difference(known)))


def read_samples(file: Readable, path: str) -> Iterator[tuple[Record, bytes]]:
    """The samples of one tar, read from front to back without seeking; `path` names it in messages.

    Raises:
        CorruptShardError: the tar is damaged.
    """
    for record, _, image in samples(file, path):
        yield record, image.data


def _unreadable(path: str, error: OSError) -> CorruptShardError:
    return CorruptShardError(
        f"{path}: cannot be read ({error.strerror or error}), though the manifest lists it"
    )


def _labels(index: Index, names: Sequence[str]) -> np.ndarray:
    stored = np.where(index.labels < 0, np.nan, index.labels).astype(np.float32)
    columns = {finding: stored[:, column] for column, finding in enumerate(index.findings)}
    unknown = np.full(len(index.keys), np.nan, np.float32)
    normal = columns.get(vocabulary.NO_FINDING, unknown)
    others = [values for finding, values in columns.items() if finding != vocabulary.NO_FINDING]
    positive = (
        np.any([values == 1 for values in others], axis=0) if others else np.zeros(len(index.keys), bool)
    )
    result = np.empty((len(index.keys), len(names)), np.float32)
    for column, name in enumerate(names):
        values = columns.get(name, unknown)
        settled = positive if name == vocabulary.NO_FINDING else normal == 1
        result[:, column] = np.where(settled, 0.0, values)
    return result
