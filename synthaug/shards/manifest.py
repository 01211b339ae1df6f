"""The manifest: the list of shards with counts and SHA-256, written last."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synthaug.errors import CorruptShardError, DataError
from synthaug.shards.storage import open_storage

MANIFEST = "manifest.json"
SCHEMA = 1
_OWN = {"schema", "count", "shards", "files"}
# Files of a run beside its shards; those present when the manifest is written are hashed in it.
COMPANIONS = ("recipe.yaml", "execution.json", "pack.json", "preview.png", "README.md", "rejected.jsonl")


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard: its tar's name, samples, size in bytes, and the SHA-256 of tar and index."""

    name: str
    count: int
    sha256: str
    index_sha256: str
    size: int

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".index"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The shards of a folder, how many samples they hold together, its other files and the run's facts.

    Args:
        shards: in reading order.
        count: samples in all.
        files: companion's name -> SHA-256.
        facts: whatever else the run wrote: recipe digest, checkpoint hash, versions.
    """

    shards: tuple[ShardEntry, ...]
    count: int
    files: Mapping[str, str]
    facts: Mapping[str, Any]


def write_manifest(folder: str | Path, entries: Iterable[ShardEntry], **facts: Any) -> Manifest:
    """Write `manifest.json`, the last file of a run, which makes it a finished one.

    Args:
        folder: or URL; of two writers in a store, the second is refused unless it writes the same bytes.
        entries: the shards.
        facts: plain JSON values.

    Raises:
        DiskFullError, OutputFolderError, StorageError: it cannot be written.
    """
    storage = open_storage(folder)
    if taken := sorted(facts.keys() & _OWN):
        raise DataError(f"{storage.where(MANIFEST)}: the facts repeat the manifest's own {', '.join(taken)}")
    shards = tuple(sorted(entries, key=lambda entry: entry.name))
    there = storage.names()
    present = {name: storage.sha256(name) for name in COMPANIONS if name in there}
    manifest = Manifest(shards, sum(entry.count for entry in shards), present, facts)
    value = {
        "schema": SCHEMA,
        "count": manifest.count,
        "shards": [asdict(entry) for entry in shards],
        "files": present,
        **facts,
    }
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.create(MANIFEST, text.encode())
    return manifest


def read_manifest(root: str | Path) -> Manifest:
    """Read `manifest.json` of a folder or URL.

    Raises:
        DataError: there is none: no folder of shards, or a run that has not finished.
        CorruptShardError: it is not a manifest.
    """
    storage = open_storage(root)
    path = storage.where(MANIFEST)
    try:
        value = json.loads(storage.read(MANIFEST))
    except FileNotFoundError as error:
        if storage.remote:
            storage.names()  # says so where the whole bucket is missing
        raise DataError(
            f"{path}: missing: not a folder of shards, or an unfinished run (run its command again)"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise CorruptShardError(f"{path}: not a manifest (not JSON: {error})") from error
    return _parse(value, path)


def _parse(value: Any, path: str) -> Manifest:
    try:
        if value["schema"] != SCHEMA:
            raise CorruptShardError(
                f"{path}: found schema {value['schema']!r}, expected {SCHEMA}; update synthaug"
            )
        shards = tuple(ShardEntry(**entry) for entry in value["shards"])
        files, count = dict(value["files"]), value["count"]
        for entry in shards:
            _check(entry)
        if type(count) is not int or any(type(digest) is not str for digest in files.values()):
            raise TypeError("count or files")
        if any(Path(name).name != name for name in files):
            raise ValueError("a file outside the folder")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptShardError(f"{path}: not a manifest ({error!r})") from error
    return Manifest(shards, count, files, {key: item for key, item in value.items() if key not in _OWN})


def _check(entry: ShardEntry) -> None:
    """A manifest may not name a file outside its folder."""
    texts = (entry.name, entry.sha256, entry.index_sha256)
    if any(type(text) is not str for text in texts) or any(
        type(n) is not int for n in (entry.count, entry.size)
    ):
        raise TypeError(f"shard {entry.name!r}")
    if not entry.name.endswith(".tar") or Path(entry.name).name != entry.name or entry.count < 0:
        raise ValueError(f"shard {entry.name!r}")
