"""Tar shards: writing, reading, verifying.

A folder of shards holds

    manifest.json        written last: shards (name, count, size, sha256, index_sha256) and the run's facts
    shard-000000.tar     000000000.png + 000000000.json, ...: plain ustar, which any WebDataset reader opens
    shard-000000.index   where each sample lies and its labels, for O(1) access; rebuildable from the tar

Equal samples give equal bytes: no clock, owner or path is written. Every file is written to a temporary
name, fsynced and renamed, and its folder fsynced, so a name that can be seen is a file that is whole; an
index appears before its tar, so a tar that can be seen has its index. In a store behind a URL a file is put as a
whole, and the manifest under a free name only (`synthaug.shards.storage`). Nothing is ever unpickled, and tar
members other than plain files with plain names are refused.
"""

from synthaug.shards.files import atomic_write, lock
from synthaug.shards.index import rebuild_index
from synthaug.shards.manifest import MANIFEST, Manifest, ShardEntry, read_manifest, write_manifest
from synthaug.shards.reading import ShardSet, read_samples, stream
from synthaug.shards.storage import Storage, local_path, open_storage
from synthaug.shards.verifying import Fault, verify
from synthaug.shards.writing import existing_shard, shard_name, write_shard

__all__ = [
    "MANIFEST",
    "Fault",
    "Manifest",
    "ShardEntry",
    "ShardSet",
    "Storage",
    "atomic_write",
    "existing_shard",
    "local_path",
    "lock",
    "open_storage",
    "read_manifest",
    "read_samples",
    "rebuild_index",
    "shard_name",
    "stream",
    "verify",
    "write_manifest",
    "write_shard",
]
