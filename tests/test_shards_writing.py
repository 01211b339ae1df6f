"""What `synthaug.shards` writes: layout, determinism, and whole-or-absent files."""

import errno
import gc
import hashlib
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_samples import samples

from synthaug import shards
from synthaug.errors import DataError, DiskFullError, OutputFolderError
from synthaug.record import Record


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_layout_is_plain_ustar(tmp_path):
    entry = shards.write_shard(tmp_path, 3, samples(4))
    assert listing(tmp_path) == ["shard-000003.index", "shard-000003.tar"]
    with tarfile.open(tmp_path / "shard-000003.tar", format=tarfile.USTAR_FORMAT) as tar:
        members = tar.getmembers()
        expected = [f"{i:09d}.{ending}" for i in range(4) for ending in ("png", "json")]
        assert [member.name for member in members] == expected
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in members} == {
            (0, 0, 0, "", "", 0o644, True)
        }
        assert json.load(tar.extractfile("000000001.json"))["labels"] == {"no_finding": 1.0, "edema": None}
    data = (tmp_path / "shard-000003.tar").read_bytes()
    assert (entry.name, entry.count, entry.size) == ("shard-000003.tar", 4, len(data))
    assert entry.sha256 == hashlib.sha256(data).hexdigest()
    assert entry.index_sha256 == hashlib.sha256((tmp_path / "shard-000003.index").read_bytes()).hexdigest()


def test_equal_samples_give_equal_bytes_for_ever(tmp_path):
    entry = shards.write_shard(tmp_path, 0, samples(5))
    # Pinned: runs of earlier versions are resumed and compared byte for byte.
    assert entry.sha256 == "403d65bec324923634d91b6e5dcb988fa91595dd81daa8b476e7ee0868e938db"
    assert entry.index_sha256 == "d922abee02b8003714e2d1c619c844f1dfa55b6f06e1e9a0ca337581de2593b7"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_it(tmp_path):
    import webdataset

    for number in range(2):
        shards.write_shard(tmp_path, number, samples(3))
    read = list(webdataset.WebDataset(f"file:{tmp_path}/shard-{{000000..000001}}.tar", shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [f"{i:09d}" for i in range(3)] * 2
    assert [sample["png"] for sample in read[:3]] == [image for _, image, _ in samples(3)]
    assert json.loads(read[0]["json"])["view"] == "PA"
    gc.collect()  # webdataset leaves its files to the collector, which warns


def test_an_empty_shard(tmp_path):
    entries = [shards.write_shard(tmp_path, 0, [])]
    shards.write_manifest(tmp_path, entries)
    assert shards.verify(tmp_path) == []
    assert len(shards.ShardSet(tmp_path)) == 0
    assert shards.ShardSet(tmp_path).labels(["edema"]).shape == (0, 1)


def test_the_index_is_compact_and_rebuildable(tmp_path):
    shards.write_shard(tmp_path, 0, samples(200))
    before = contents(tmp_path)
    assert len(before["shard-000000.index"]) < 50 * 200
    (tmp_path / "shard-000000.index").unlink()
    shards.rebuild_index(tmp_path, "shard-000000.tar")
    assert contents(tmp_path) == before


def test_an_existing_shard_is_kept_only_when_whole(tmp_path):
    entry = shards.write_shard(tmp_path, 0, samples(4))
    before = contents(tmp_path)
    assert shards.existing_shard(tmp_path, 0) == entry
    assert shards.existing_shard(tmp_path, 1) is None
    (tmp_path / "shard-000000.index").write_bytes(b"rubbish")
    assert shards.existing_shard(tmp_path, 0) == entry
    assert contents(tmp_path) == before
    with open(tmp_path / "shard-000000.tar", "r+b") as file:
        file.truncate(1000)
    assert shards.existing_shard(tmp_path, 0) is None


@pytest.mark.parametrize("key", ["a.b", "a/b", "../a", "a\nb", "a\\b", "k" * 120])
def test_keys_that_cannot_name_a_member_are_refused(tmp_path, key):
    with pytest.raises(DataError, match="key"):
        shards.write_shard(tmp_path, 0, [(Record(key, {}), b"", "png")])
    assert listing(tmp_path) == []


@pytest.mark.parametrize("extension", ["", "tar.gz", "../png", "json"])
def test_extensions_that_cannot_name_an_image_are_refused(tmp_path, extension):
    with pytest.raises(DataError, match="extension"):
        shards.write_shard(tmp_path, 0, [(Record("7", {}), b"", extension)])


def test_a_key_given_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"shard-000000.tar: the key '000000000' is given twice"):
        shards.write_shard(tmp_path, 0, [*samples(1), *samples(1)])
    assert listing(tmp_path) == []


def test_a_generator_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield from samples(2)
        (tmp_path / "source-film.png").read_bytes()

    with pytest.raises(FileNotFoundError, match="source-film"):
        shards.write_shard(tmp_path, 0, broken())
    assert listing(tmp_path) == []


def test_the_manifest_hashes_its_companions_and_keeps_the_facts(tmp_path):
    entries = [shards.write_shard(tmp_path, number, samples(2)) for number in (1, 0)]
    (tmp_path / "recipe.yaml").write_text("seed: 0\n")
    written = shards.write_manifest(tmp_path, entries, recipe_digest="ab", checkpoint={"name": "embedded"})
    assert written == shards.read_manifest(tmp_path)
    assert [entry.name for entry in written.shards] == ["shard-000000.tar", "shard-000001.tar"]
    assert (written.count, written.facts["recipe_digest"]) == (4, "ab")
    assert written.files == {"recipe.yaml": hashlib.sha256(b"seed: 0\n").hexdigest()}
    with pytest.raises(DataError, match="repeat the manifest's own count"):
        shards.write_manifest(tmp_path, entries, count=3)


@given(st.binary(max_size=3000))
def test_atomic_write_writes_what_it_was_given(tmp_path, data):
    shards.atomic_write(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    assert listing(tmp_path) == ["file"]


@contextmanager
def full_disk():
    """No file of this process can grow past 2,000 bytes, so nothing else may write meanwhile: pytest's own log neither."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_shows_nothing_half_written(tmp_path):
    shards.atomic_write(tmp_path / "file", b"old")
    with full_disk(), pytest.raises(DiskFullError, match=r"file: no room left"):
        shards.atomic_write(tmp_path / "file", bytes(9000))
    assert contents(tmp_path) == {"file": b"old"}
    with full_disk(), pytest.raises(DiskFullError, match=r"shard-000000.tar: no room left"):
        shards.write_shard(tmp_path, 0, samples(100))
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_late_shows_nothing_half_written(tmp_path, monkeypatch, call, code):
    def full(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFullError):
        shards.write_shard(tmp_path, 0, samples(3))
    assert listing(tmp_path) == []


def test_the_order_on_disk_is_data_name_folder_and_index_before_tar(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append(("fsync", os.path.basename(path) if path != str(tmp_path) else "folder"))
        fsync(descriptor)

    def noted_replace(source, target):
        events.append(("name", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    shards.write_shard(tmp_path, 0, samples(2))
    assert list(dict.fromkeys(events[:5])) == [
        ("fsync", ".shard-000000.tar.tmp"),
        ("fsync", ".shard-000000.index.tmp"),
        ("name", "shard-000000.index"),
        ("fsync", "folder"),
    ]
    assert events[-2:] == [("name", "shard-000000.tar"), ("fsync", "folder")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for call in (
        lambda: shards.atomic_write(tmp_path / "none" / "x", b""),
        lambda: shards.write_shard(tmp_path / "none", 0, samples(1)),
        lambda: shards.lock(tmp_path / "file" / "out").__enter__(),
    ):
        with pytest.raises(OutputFolderError, match=r"cannot be written.*--out"):
            call()


def test_the_lock_holds_one_writer_and_leaves_no_trace(tmp_path):
    folder = tmp_path / "new" / "out"
    with shards.lock(folder):
        assert folder.is_dir()
        with pytest.raises(OutputFolderError, match="another process is writing there"), shards.lock(folder):
            pass
        other = f"from synthaug import shards\nwith shards.lock({str(folder)!r}): pass"
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert done.returncode != 0 and "another process" in done.stderr
    assert listing(folder) == []
    (folder / ".synthaug.lock").touch()  # left by a killed run
    with shards.lock(folder):
        pass
    assert listing(folder) == []


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from synthaug import shards
from shard_samples import samples
folder = Path({folder!r})
print("ready", flush=True)
for number in range(100_000):
    shards.write_shard(folder, number, samples(number % 20))
"""


def test_a_shard_that_can_be_seen_is_whole_however_the_writer_dies(tmp_path):
    chance = random.Random(0)
    expected: dict[int, shards.ShardEntry] = {}
    seen = 0
    for trial in range(4):
        folder = tmp_path / f"out-{trial}"
        folder.mkdir()
        code = WRITER.format(tests=os.path.dirname(__file__), folder=str(folder))
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            while not (folder / shards.shard_name(1)).exists():  # a busy machine is slow to begin
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.1))
            writer.kill()
        (tmp_path / "whole").mkdir(exist_ok=True)
        for number in itertools.count():
            if not (folder / shards.shard_name(number)).exists():
                break
            if number not in expected:
                expected[number] = shards.write_shard(tmp_path / "whole", number, samples(number % 20))
            index = (folder / shards.shard_name(number)).with_suffix(".index").read_bytes()
            assert hashlib.sha256(index).hexdigest() == expected[number].index_sha256
            assert shards.existing_shard(folder, number) == expected[number]
            seen += 1
    assert seen > 4


def test_labels_travel_to_the_index(tmp_path):
    shards.write_manifest(tmp_path, [shards.write_shard(tmp_path, 0, samples(3))])
    found = shards.ShardSet(tmp_path).labels(["no_finding", "edema", "pleural_effusion"])
    np.testing.assert_array_equal(found, np.float32([[0, np.nan, 1], [1, 0, 0], [np.nan] * 3]))
