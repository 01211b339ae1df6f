"""Verifying a folder of shards: every fault by name, none of them raised."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from synthaug.errors import CorruptShardError, DataError
from synthaug.shards import index
from synthaug.shards.files import TEMPORARY
from synthaug.shards.manifest import MANIFEST, ShardEntry, read_manifest
from synthaug.shards.storage import Hashing, Storage, open_storage


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Args:
        path: the file, relative to the folder.
        what: "missing", "truncated", "changed", "extra", "leftover", "count", "damaged" or "not a manifest".
        found: what is there.
        expected: what should be.
    """

    path: str
    what: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}: found {self.found}, expected {self.expected}"


def verify(folder: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Check a folder against its manifest: hashes, sizes, counts, indexes, and files that do not belong.

    Args:
        folder: with a `manifest.json`; a path or URL.
        progress: told of (shards done, shards in all) after each shard.

    Returns:
        The faults, the manifest's first; an empty list when all is well.

    Raises:
        StorageError: a store that does not answer, which is no fault of the folder.
    """
    storage = open_storage(folder)
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [Fault(MANIFEST, "missing", "no readable file", str(error))]
    except CorruptShardError as error:
        return [Fault(MANIFEST, "not a manifest", str(error), "the manifest that the run wrote")]
    faults = []
    total = sum(entry.count for entry in manifest.shards)
    if total != manifest.count:
        faults.append(Fault(MANIFEST, "count", f"{manifest.count}", f"{total}, the sum of its shards"))
    for done, entry in enumerate(manifest.shards, 1):
        faults += _shard(storage, entry)
        if progress:
            progress(done, len(manifest.shards))
    for name, digest in manifest.files.items():
        faults += _compared(storage, name, digest)
    listed = {name for entry in manifest.shards for name in (entry.name, entry.index_name)}
    faults += _strangers(storage, listed)
    return faults


def _shard(storage: Storage, entry: ShardEntry) -> Iterator[Fault]:
    built, damage, fault = None, None, None
    try:
        with storage.open(entry.name) as file:
            hashing = Hashing(file)
            try:
                built = index.scan(hashing, entry.name, storage.where(entry.name))
            except CorruptShardError as error:
                damage = error
            fault = _difference(entry.name, hashing, entry.sha256, entry.size)
    except (FileNotFoundError, IsADirectoryError):
        fault = _missing(entry.name, entry.sha256)
    if fault:
        yield fault
    elif damage:
        yield Fault(entry.name, "damaged", str(damage), "samples of an image and its .json")
    if built and len(built.keys) != entry.count:
        yield Fault(entry.name, "count", f"{len(built.keys)} samples", f"{entry.count}")
    index_fault = next(_compared(storage, entry.index_name, entry.index_sha256), None)
    if index_fault:
        yield index_fault
    elif built and not fault and hashlib.sha256(built.to_bytes()).hexdigest() != entry.index_sha256:
        yield Fault(
            entry.index_name, "damaged", "places or labels that are not the tar's", "the tar's own index"
        )


def _compared(storage: Storage, name: str, digest: str) -> Iterator[Fault]:
    try:
        with storage.open(name) as file:
            fault = _difference(name, Hashing(file), digest)
    except (FileNotFoundError, IsADirectoryError):
        fault = _missing(name, digest)
    if fault:
        yield fault


def _difference(name: str, file: Hashing, digest: str, size: int | None = None) -> Fault | None:
    found = file.to_end()
    if size is not None and file.size != size:
        return Fault(
            name, "truncated" if file.size < size else "changed", f"{file.size} bytes", f"{size} bytes"
        )
    return Fault(name, "changed", f"sha256 {found}", f"sha256 {digest}") if found != digest else None


def _missing(name: str, digest: str) -> Fault:
    return Fault(name, "missing", "no file", f"sha256 {digest}")


def _strangers(storage: Storage, listed: set[str]) -> Iterator[Fault]:
    for name in sorted(storage.names()):
        if name in listed:
            continue
        if name.endswith(TEMPORARY):
            yield Fault(name, "leftover", "a file of an interrupted write", "no such file; it may be removed")
        elif name.endswith((".tar", ".index")):
            yield Fault(name, "extra", "a file that the manifest does not list", "no such file")
