"""Writing one shard, and finding one that is already written."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from synthaug.errors import CorruptShardError, DataError
from synthaug.record import Record
from synthaug.shards import index
from synthaug.shards.files import atomic, atomic_write, settle, sha256_of
from synthaug.shards.manifest import ShardEntry
from synthaug.shards.tar import BLOCK, END, pack


def shard_name(number: int) -> str:
    """The name of a shard's tar: "shard-000012.tar"."""
    return f"shard-{number:06d}.tar"


def write_shard(folder: str | Path, number: int, samples: Iterable[tuple[Record, bytes, str]]) -> ShardEntry:
    """Write `shard-NNNNNN.tar` and its index; equal samples give equal bytes.

    Args:
        folder: must exist.
        number: of the shard.
        samples: record, encoded image and its extension ("png"); may be a generator, which is read as the
            tar is written.

    Returns:
        The shard's line for the manifest.

    Raises:
        DataError: a key that is given twice or cannot name a member.
        DiskFullError, OutputFolderError: the shard cannot be written; nothing of it can be seen then.
    """
    folder, name = Path(folder), shard_name(number)
    digest, offset = hashlib.sha256(), 0
    records: dict[str, Record] = {}
    places: list[tuple[int, int, int, int]] = []
    with atomic(folder / name) as file:
        for record, image, extension in samples:
            _check_key(record.key, extension)
            if record.key in records:
                raise DataError(f"{folder / name}: the key {record.key!r} is given twice")
            text = record.to_bytes()
            first = pack(f"{record.key}.{extension}", image)
            block = first + pack(f"{record.key}.json", text)
            places.append((offset + len(first) + BLOCK, len(text), offset + BLOCK, len(image)))
            records[record.key] = record
            file.write(block)
            digest.update(block)
            offset += len(block)
        file.write(END)
        digest.update(END)
        entry_index = index.build(name, records.values(), places).to_bytes()
        # The tar is on the disk, without its name: now the index takes its place, then the tar its name.
        settle(file)
        atomic_write(folder / ShardEntry(name, 0, "", "", 0).index_name, entry_index)
    return ShardEntry(
        name=name,
        count=len(records),
        sha256=digest.hexdigest(),
        index_sha256=hashlib.sha256(entry_index).hexdigest(),
        size=offset + len(END),
    )


def existing_shard(folder: str | Path, number: int) -> ShardEntry | None:
    """The line of a shard that an interrupted run left whole, or None when there is none to keep.

    A damaged tar counts as none. A missing or damaged index is made anew.
    """
    path = Path(folder) / shard_name(number)
    if not path.is_file():
        return None
    try:
        found = index.scan(path)
    except CorruptShardError:
        return None
    data, index_path = found.to_bytes(), path.with_suffix(".index")
    if not index_path.is_file() or index_path.read_bytes() != data:
        atomic_write(index_path, data)
    return ShardEntry(
        name=path.name,
        count=len(found.keys),
        sha256=sha256_of(path),
        index_sha256=hashlib.sha256(data).hexdigest(),
        size=path.stat().st_size,
    )


def _check_key(key: str, extension: str) -> None:
    if (
        "." in key
        or "/" in key
        or "\\" in key
        or "\n" in key
        or "\0" in key
        or not extension.isalnum()
        or extension == "json"
    ):
        raise DataError(
            f"the key {key!r} with extension {extension!r} cannot name a member of a shard: "
            "expected a key without dots, slashes or line ends, and a plain extension like png"
        )
