"""A folder of shards on this machine and in a store: the same files, the same errors, one writer that counts."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from shard_samples import samples

from synthaug import shards
from synthaug.errors import (
    CorruptShardError,
    DataError,
    DiskFullError,
    NotInstalledError,
    OutputFolderError,
    StorageError,
    UserError,
)
from synthaug.shards.remote import RemoteStorage

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["path", "file", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder of each kind."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return {"path": "", "file": "file://", "memory": "memory:/"}[request.param] + str(tmp_path)


@pytest.fixture
def bucket(s3: str, tmp_path: Path) -> str:
    """An address under which nothing lies."""
    return f"{s3}/{tmp_path.name}"


def write(root: str | Path, count: int = 2, **facts: str) -> shards.Manifest:
    entries = [shards.write_shard(root, number, samples(5 + number)) for number in range(count)]
    return shards.write_manifest(root, entries, **facts)


def content(root: str | Path) -> dict[str, bytes]:
    storage = shards.open_storage(root)
    return {name: storage.read(name) for name in storage.names()}


def test_every_storage_holds_the_same_bytes_and_gives_them_back(
    root: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    beside = tmp_path_factory.mktemp("beside")
    assert write(root, note="n") == write(beside, note="n")
    assert content(root) == content(beside) and len(content(root)) == 5
    assert shards.verify(root) == []
    there, here = shards.ShardSet(root), shards.ShardSet(beside)
    assert [there[i] for i in (10, 0, 6)] == [here[i] for i in (10, 0, 6)]
    assert list(there.records()) == list(here.records()) and there.keys == here.keys
    assert list(shards.stream(root)) == list(shards.stream(beside))
    assert there.record(7) == here.record(7)


def test_a_storage_reads_writes_and_removes(root: str) -> None:
    storage = shards.open_storage(root)
    assert not storage.exists("a") and "a" not in storage.names()
    with storage.lock():
        storage.write("a", b"first")
        storage.write("a", b"0123456789")
        assert storage.exists("a") and storage.names()["a"] == 10
        assert storage.ranges("a", [(2, 3), (0, 0), (8, 2)]) == [b"234", b"", b"89"]
        storage.create("b", b"x")
        storage.create("b", b"x")  # the very bytes that are there
        storage.remove("a")
    for name in ("a", "c"):
        with pytest.raises(FileNotFoundError):
            storage.read(name)
    assert set(storage.names()) == {"b"}


def test_an_unfinished_run_does_not_pass_and_a_whole_shard_is_kept(root: str) -> None:
    entry = shards.write_shard(root, 0, samples(5))
    assert [(fault.path, fault.what) for fault in shards.verify(root)] == [("manifest.json", "missing")]
    with pytest.raises(DataError, match=r"manifest.json: missing"):
        shards.ShardSet(root)
    assert shards.existing_shard(root, 0) == entry and shards.existing_shard(root, 1) is None
    shards.open_storage(root).remove("shard-000000.index")  # a run that was killed between the two
    assert shards.existing_shard(root, 0) == entry
    shards.write_manifest(root, [entry])
    assert shards.verify(root) == []


def test_faults_are_named_alike_everywhere(root: str) -> None:
    write(root, 3)
    storage = shards.open_storage(root)
    storage.write("shard-000000.tar", storage.read("shard-000000.tar")[:-512])
    storage.remove("shard-000001.index")
    changed = bytearray(storage.read("shard-000002.tar"))
    changed[600] ^= 1
    storage.write("shard-000002.tar", bytes(changed))
    storage.write("shard-000007.tar", b"")
    assert [(fault.path, fault.what) for fault in shards.verify(root)] == [
        ("shard-000000.tar", "truncated"),
        ("shard-000001.index", "missing"),
        ("shard-000002.tar", "changed"),
        ("shard-000007.tar", "extra"),
    ]


def test_of_two_writers_in_a_store_the_first_counts(bucket: str) -> None:
    first = write(bucket, note="first")
    before = content(bucket)
    with pytest.raises(OutputFolderError, match=r"manifest.json: another run has written something else"):
        shards.write_manifest(bucket, first.shards, note="second")
    with pytest.raises(OutputFolderError, match=r"shard-000001.tar: another run .*choose another --out"):
        shards.write_shard(bucket, 1, samples(3))
    assert shards.write_shard(bucket, 1, samples(6)) == first.shards[1]  # equal bytes hurt nobody
    assert content(bucket) == before and shards.verify(bucket) == []


def test_a_put_whose_answer_was_lost_is_a_put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = type(fsspec.filesystem("memory"))
    pipe = memory.pipe_file

    def lost(self: object, path: str, data: bytes, **mode: str) -> None:
        if not path.endswith("never"):
            pipe(self, path, data, **mode)
        raise TimeoutError("no answer")

    monkeypatch.setattr(memory, "pipe_file", lost)
    storage = shards.open_storage(f"memory:/{tmp_path}")
    storage.create("a", b"mine")
    assert storage.read("a") == b"mine"
    with pytest.raises(
        StorageError, match=r"/never: cannot be written \(no answer\); .*the same command again"
    ):
        storage.create("never", b"mine")
    assert set(storage.names()) == {"a"}


def test_a_damaged_shard_of_a_store_is_not_written_over(bucket: str) -> None:
    storage = shards.open_storage(bucket)
    storage.write("shard-000000.tar", b"x" * 2048)
    with pytest.raises(CorruptShardError, match=r"shard-000000.tar: damaged .*remove that object and run"):
        shards.existing_shard(bucket, 0)


def test_buckets_that_are_not_there_are_named(s3: str) -> None:
    for reading in (shards.ShardSet, shards.read_manifest):
        with pytest.raises(DataError, match=r"s3://nowhere/run: no such bucket"):
            reading("s3://nowhere/run")
    with pytest.raises(OutputFolderError, match=r"s3://nowhere/run/shard-000000.tar: no such bucket"):
        shards.write_shard("s3://nowhere/run", 0, samples(1))
    assert [fault.path for fault in shards.verify("s3://nowhere/run")] == ["manifest.json"]


class Forbidding(BaseHTTPRequestHandler):
    """S3's answer to somebody without the right."""

    def answer(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = answer

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def forbidden(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbidding)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    fsspec.filesystem("s3").clear_instance_cache()
    yield "s3://films/run"
    fsspec.filesystem("s3").clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bucket_without_the_right_is_named(forbidden: str) -> None:
    with pytest.raises(OutputFolderError, match=r"run/shard-000000.tar: cannot be written, access denied"):
        shards.write_shard(forbidden, 0, samples(1))
    with pytest.raises(DataError, match=r"run/manifest.json: cannot be read, access denied .*credentials"):
        shards.read_manifest(forbidden)


def test_what_is_missing_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(NotInstalledError, match=r"gs://bucket/run/manifest.json: .*gcsfs"):
        shards.read_manifest("gs://bucket/run")
    with pytest.raises(OutputFolderError, match=r"https://host/run: https:// is only read; write to .* s3,"):
        shards.write_shard("https://host/run", 0, samples(1))
    with pytest.raises(UserError, match="s3:/bucket/run: pathlib drops a slash"):
        shards.open_storage(Path("s3://bucket/run"))


def test_no_room_for_the_temporary_shard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage = RemoteStorage(f"memory:/{tmp_path}")

    def broken() -> Iterator[tuple]:
        yield from samples(2)
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFullError, match=r"no room left for a shard on its way to memory:/.*TMPDIR"):
        shards.write_shard(storage.root, 0, broken())
    assert storage.names() == {}
