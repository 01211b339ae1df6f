"""The index beside a shard: where each sample lies, and its labels.

One line of JSON {"schema", "shard", "count", "findings", "keys_size"}, then, without gaps:

    int64[count, 4]            offset and size of the JSON, offset and size of the image, little-endian
    int8[count, findings]      labels: 1 present, 0 absent, -1 unknown
    keys_size bytes            the keys, UTF-8, one a line
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synthaug.errors import CorruptShardError, SynthaugError
from synthaug.findings import FINDINGS
from synthaug.record import Record
from synthaug.shards.storage import open_storage
from synthaug.shards.tar import MAX_MEMBER, Member, Readable, members

SCHEMA = 1


class Keys(Sequence[str]):
    """The keys of a shard as one block of text, an eighth of what as many strings would take.

    Args:
        text: UTF-8, one key a line.
        count: how many.

    Raises:
        ValueError: another number of keys, or no UTF-8.
    """

    __slots__ = ("_ends", "_text")

    def __init__(self, text: bytes, count: int) -> None:
        text.decode()
        breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        if len(breaks) + 1 != count and (count or text):
            raise ValueError(f"{len(breaks) + 1} keys for {count} samples")
        self._text = text
        self._ends = np.append(breaks, len(text)).astype(np.int32)[:count]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        start = self._ends[place - 1] + 1 if place else 0
        return self._text[start : self._ends[place]].decode()

    def __iter__(self) -> Iterator[str]:
        return iter(self._text.decode().split("\n") if len(self) else ())


@dataclass(frozen=True, slots=True)
class Index:
    """Where the samples of one shard lie.

    Args:
        shard: the tar's name.
        keys: the samples' keys, in the tar's order.
        places: (n, 4) int64: offset and size of the JSON, offset and size of the image.
        findings: the columns of `labels`.
        labels: (n, f) int8: 1, 0, -1 unknown.
    """

    shard: str
    keys: Sequence[str]
    places: np.ndarray
    findings: Sequence[str]
    labels: np.ndarray

    def to_bytes(self) -> bytes:
        """The index as the module's docstring lays it out."""
        keys = "\n".join(self.keys).encode()
        head = {
            "schema": SCHEMA,
            "shard": self.shard,
            "count": len(self.keys),
            "findings": list(self.findings),
            "keys_size": len(keys),
        }
        line = json.dumps(head, ensure_ascii=False).encode() + b"\n"
        return line + self.places.astype("<i8").tobytes() + self.labels.astype("<i1").tobytes() + keys

    @classmethod
    def from_bytes(cls, data: bytes, path: str) -> "Index":
        """Read an index; `path` names it in messages.

        Raises:
            CorruptShardError: not an index.
        """
        try:
            line, _, body = data.partition(b"\n")
            head = json.loads(line)
            count, findings = int(head["count"]), [str(name) for name in head["findings"]]
            sizes = (count * 4 * 8, count * len(findings), int(head["keys_size"]))
            if head["schema"] != SCHEMA or min(sizes) < 0 or sum(sizes) != len(body):
                raise ValueError(f"schema {head['schema']}, {len(body)} bytes for {count} samples")
            places = np.frombuffer(body, "<i8", count * 4).reshape(count, 4)
            if count and (places.min() < 0 or places[:, (1, 3)].max() > MAX_MEMBER):
                raise ValueError("places outside any tar")
            labels = np.frombuffer(body, "<i1", count * len(findings), sizes[0]).reshape(count, len(findings))
            keys = Keys(body[sizes[0] + sizes[1] :], count)
            return cls(str(head["shard"]), keys, places, findings, labels)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise CorruptShardError(f"{path}: not an index ({error}); {REBUILD}") from error


REBUILD = "run `synthaug verify` on the folder; synthaug.shards.rebuild_index makes it anew from the tar"


def build(shard: str, records: Iterable[Record], places: Iterable[tuple[int, int, int, int]]) -> Index:
    """The index of these records, its findings in the vocabulary's order."""
    records = list(records)
    named = {finding for record in records for finding in record.labels}
    findings = [finding for finding in FINDINGS if finding in named] + sorted(named.difference(FINDINGS))
    rows = [[record.labels.get(finding, np.nan) for finding in findings] for record in records]
    values = np.array(rows, dtype=float).reshape(len(records), len(findings))
    return Index(
        shard=shard,
        keys=[record.key for record in records],
        places=np.array(list(places), dtype=np.int64).reshape(len(records), 4),
        findings=findings,
        labels=np.where(np.isnan(values), -1, values).astype(np.int8),
    )


class Sample(NamedTuple):
    """One sample of a tar: its record, and the members that hold its JSON and its image."""

    record: Record
    text: Member
    image: Member


def samples(file: Readable, path: str) -> Iterator[Sample]:
    """The samples of one tar, read from front to back without seeking; `path` names it in messages.

    Raises:
        CorruptShardError: the tar is damaged, or holds something else.
    """
    tar = members(file, path)
    for member in tar:
        other = next(tar, None)
        if other is None:
            raise CorruptShardError(f"{path}: {member.name} stands alone, expected an image and its .json")
        yield _sample(member, other, path)


def _sample(first: Member, second: Member, path: str) -> Sample:
    text, image = (first, second) if first.name.endswith(".json") else (second, first)
    (text_key, _, ending), (image_key, _, image_ending) = text.name.partition("."), image.name.partition(".")
    if text_key != image_key or ending != "json" or image_ending == "json":
        raise CorruptShardError(
            f"{path}: found {first.name} beside {second.name}, expected an image and its .json"
        )
    try:
        record = Record.from_bytes(text.data)
    except SynthaugError as error:
        raise CorruptShardError(f"{path}: {text.name}: {error}") from error
    if record.key != text_key:
        raise CorruptShardError(f"{path}: {text.name}: found the key {record.key!r}, expected {text_key!r}")
    return Sample(record, text, image)


def scan(file: Readable, name: str, path: str) -> Index:
    """The index of the tar `name`, read from its members; `path` names it in messages.

    Raises:
        CorruptShardError: the tar is damaged.
    """
    records, places = [], []
    for record, text, image in samples(file, path):
        records.append(record)
        places.append((text.offset, len(text.data), image.offset, len(image.data)))
    return build(name, records, places)


def rebuild_index(folder: str | Path, name: str) -> None:
    """Write the `.index` of the shard `name` ("shard-000000.tar") anew, with the same bytes.

    Raises:
        CorruptShardError: the tar is damaged.
        DiskFullError, OutputFolderError: the index cannot be written.
    """
    storage = open_storage(folder)
    path = storage.where(name)
    try:
        with storage.open(name) as file:
            found = scan(file, name, path)
    except OSError as error:
        raise CorruptShardError(f"{path}: cannot be read ({error.strerror or error})") from error
    storage.write(name.removesuffix(".tar") + ".index", found.to_bytes())
