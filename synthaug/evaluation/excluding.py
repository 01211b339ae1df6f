"""Shards without the films that an audit lists: the same bytes, fewer films, and a manifest that says so."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

from synthaug import shards
from synthaug.errors import DataError, OutputFolderError
from synthaug.record import Record
from synthaug.shards.index import samples
from synthaug.shards.manifest import MANIFEST, ShardEntry, read_manifest

KEPT = ("recipe.yaml", "execution.json")


def write_without(source: str | Path, keys: Collection[str], out: str | Path, why: str) -> int:
    """Copy a folder of shards to `out` without the films of these keys; returns how many are left.

    Recipe, execution and card are copied, the card with a section on what was left out; the contact sheet is not, since it
    may show a film that was. The manifest's `excluded` names the keys, the reason and the SHA-256 of the source's manifest.
    Raises `DataError` where `source` is no folder of shards, lacks a key, or nothing would be left; `OutputFolderError` where
    `out` already holds a manifest.
    """
    source, out = Path(source), Path(out)
    manifest, unwanted = read_manifest(source), set(keys)
    known = {key for key in shards.ShardSet(source).keys}
    if strange := sorted(unwanted - known):
        raise DataError(f"{source}: holds no film {', '.join(strange[:5])}")
    if unwanted == known:
        raise DataError(f"{source}: every film would be left out")
    with shards.lock(out):
        if (out / MANIFEST).exists():
            raise OutputFolderError(f"{out}: already holds a data set; choose another --exclude")
        entries: list[ShardEntry] = []
        for entry in manifest.shards:
            kept = list(_kept(source / entry.name, unwanted))
            if kept:
                entries.append(shards.write_shard(out, len(entries), iter(kept)))
        for name in KEPT:
            if (source / name).is_file():
                shards.atomic_write(out / name, (source / name).read_bytes())
        card = (
            (source / "README.md").read_text()
            if (source / "README.md").is_file()
            else "# Synthetic chest radiographs\n"
        )
        told = f"\n## Films left out\n\n{len(unwanted)} of {manifest.count} films were left out: {why}.\n"
        shards.atomic_write(out / "README.md", (card + told).encode())
        digest = hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest()
        facts = dict(manifest.facts) | {
            "excluded": {"keys": sorted(unwanted), "why": why, "source_manifest_sha256": digest}
        }
        return shards.write_manifest(out, entries, **facts).count


def _kept(path: Path, unwanted: set[str]) -> Iterator[tuple[Record, bytes, str]]:
    with open(path, "rb") as file:
        for record, _, image in samples(file, str(path)):
            if record.key not in unwanted:
                yield record, image.data, image.name.rpartition(".")[2]
