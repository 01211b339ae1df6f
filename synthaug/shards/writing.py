"""Writing one shard, and finding one that is already written."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from synthaug.errors import CorruptShardError, DataError
from synthaug.record import Record
from synthaug.shards import index
from synthaug.shards.files import settle
from synthaug.shards.manifest import ShardEntry
from synthaug.shards.storage import Hashing, open_storage
from synthaug.shards.tar import BLOCK, END, pack


def shard_name(number: int) -> str:
    """The name of a shard's tar: "shard-000012.tar"."""
    return f"shard-{number:06d}.tar"


def write_shard(folder: str | Path, number: int, samples: Iterable[tuple[Record, bytes, str]]) -> ShardEntry:
    """Write `shard-NNNNNN.tar` and its index; equal samples give equal bytes.

    Args:
        folder: must exist; or a URL.
        number: of the shard.
        samples: record, encoded image and its extension ("png"); may be a generator, which is read as the
            tar is written.

    Returns:
        The shard's line for the manifest.

    Raises:
        DataError: a key that is given twice or cannot name a member.
        DiskFullError, OutputFolderError, StorageError: the shard cannot be written; nothing of it can be seen then.
    """
    storage, name = open_storage(folder), shard_name(number)
    index_name = ShardEntry(name, 0, "", "", 0).index_name
    digest, offset = hashlib.sha256(), 0
    records: dict[str, Record] = {}
    places: list[tuple[int, int, int, int]] = []
    with storage.writing(name) as file:
        for record, image, extension in samples:
            _check_key(record.key, extension)
            if record.key in records:
                raise DataError(f"{storage.where(name)}: the key {record.key!r} is given twice")
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
        if not storage.remote:
            # The tar is on the disk, without its name: now the index takes its place, then the tar its name.
            settle(file)
            storage.write(index_name, entry_index)
    if storage.remote:
        # The store has decided between writers whose tar it is: only now may an index stand beside it.
        storage.write(index_name, entry_index)
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

    Raises:
        CorruptShardError: a damaged tar in a store, where nothing is written over what is there.
    """
    storage, name = open_storage(folder), shard_name(number)
    try:
        with storage.open(name) as file:
            hashing = Hashing(file)
            found = index.scan(hashing, name, storage.where(name))
            digest = hashing.to_end()
    except (FileNotFoundError, IsADirectoryError):
        return None
    except CorruptShardError as error:
        if storage.remote:
            raise CorruptShardError(f"{error}; remove that object and run the same command again") from error
        return None
    data = found.to_bytes()
    entry = ShardEntry(
        name=name,
        count=len(found.keys),
        sha256=digest,
        index_sha256=hashlib.sha256(data).hexdigest(),
        size=hashing.size,
    )
    try:
        whole = storage.read(entry.index_name) == data
    except FileNotFoundError:
        whole = False
    if not whole:
        storage.write(entry.index_name, data)
    return entry


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
