"""Verifying a folder of shards: every fault by name, none of them raised."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from synthaug.errors import CorruptShardError, DataError
from synthaug.shards import index
from synthaug.shards.files import TEMPORARY, sha256_of
from synthaug.shards.manifest import MANIFEST, ShardEntry, read_manifest


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
        folder: with a `manifest.json`.
        progress: told of (shards done, shards in all) after each shard.

    Returns:
        The faults, the manifest's first; an empty list when all is well.
    """
    folder = Path(folder)
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
        faults += _shard(folder, entry)
        if progress:
            progress(done, len(manifest.shards))
    for name, digest in manifest.files.items():
        faults += _hashed(folder, name, digest)
    listed = {name for entry in manifest.shards for name in (entry.name, entry.index_name)}
    faults += _strangers(folder, listed)
    return faults


def _shard(folder: Path, entry: ShardEntry) -> Iterator[Fault]:
    path = folder / entry.name
    fault = next(_hashed(folder, entry.name, entry.sha256, entry.size), None)
    if fault:
        yield fault
    built = None
    if path.is_file():
        try:
            built = index.scan(path)
        except CorruptShardError as error:
            if not fault:
                yield Fault(entry.name, "damaged", str(error), "samples of an image and its .json")
        else:
            if len(built.keys) != entry.count:
                yield Fault(entry.name, "count", f"{len(built.keys)} samples", f"{entry.count}")
    index_fault = next(_hashed(folder, entry.index_name, entry.index_sha256), None)
    if index_fault:
        yield index_fault
    elif built and not fault and hashlib.sha256(built.to_bytes()).hexdigest() != entry.index_sha256:
        yield Fault(
            entry.index_name, "damaged", "places or labels that are not the tar's", "the tar's own index"
        )


def _hashed(folder: Path, name: str, digest: str, size: int | None = None) -> Iterator[Fault]:
    path = folder / name
    if not path.is_file():
        yield Fault(name, "missing", "no file", f"sha256 {digest}")
        return
    length = path.stat().st_size
    if size is not None and length != size:
        yield Fault(name, "truncated" if length < size else "changed", f"{length} bytes", f"{size} bytes")
        return
    found = sha256_of(path)
    if found != digest:
        yield Fault(name, "changed", f"sha256 {found}", f"sha256 {digest}")


def _strangers(folder: Path, listed: set[str]) -> Iterator[Fault]:
    for path in sorted(folder.iterdir()):
        if path.name in listed:
            continue
        if path.name.endswith(TEMPORARY):
            yield Fault(
                path.name, "leftover", "a file of an interrupted write", "no such file; it may be removed"
            )
        elif path.suffix in (".tar", ".index"):
            yield Fault(path.name, "extra", "a file that the manifest does not list", "no such file")
