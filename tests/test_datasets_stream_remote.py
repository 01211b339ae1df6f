"""The stream over URLs, and its resume in the middle of an epoch."""

import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from synthaug import shards
from synthaug.datasets import SyntheticRadiographsStream
from synthaug.errors import CorruptShardError, DataError, StorageError, UnknownNameError
from synthaug.images import encode
from synthaug.record import Record

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-three films in six uneven shards; film i has the brightness i."""
    folder = tmp_path_factory.mktemp("numbered")
    entries, start = [], 0
    for number, count in enumerate((4, 1, 5, 3, 4, 6)):
        samples = [
            (
                Record(f"{i:09d}", {"edema": float(i % 2)}, synthetic=True),
                encode(np.full((8, 8), i, np.uint8)),
                "png",
            )
            for i in range(start, start + count)
        ]
        entries.append(shards.write_shard(folder, number, samples))
        start += count
    shards.write_manifest(folder, entries)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(numbered: Path) -> Iterator[str]:
    """The folder over plain HTTP on this machine."""
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(numbered)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def brightness(image: Image.Image) -> int:
    return int(np.asarray(image).max())


def seen(stream: SyntheticRadiographsStream, workers: int = 0, context: str | None = None) -> list[int]:
    loader = DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=context)
    return [int(image) for image, _ in loader]


@pytest.mark.parametrize("shuffle", [0, 5])
def test_http_gives_what_the_folder_gives(numbered: Path, served: str, shuffle: int) -> None:
    local = SyntheticRadiographsStream(numbered, transform=brightness, shuffle=shuffle, seed=3)
    remote = SyntheticRadiographsStream(served, transform=brightness, shuffle=shuffle, seed=3)
    assert seen(remote) == seen(local) and remote.findings == local.findings and len(remote) == 23


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_http_after_this_process_has(served: str, context: str) -> None:
    films: list[int] = []
    for rank in range(2):
        stream = SyntheticRadiographsStream(served, transform=brightness, shuffle=2, rank=rank, world_size=2)
        next(iter(stream))
        films += seen(stream, 2, context)
    assert sorted(films) == list(range(23))


def test_any_fsspec_url(numbered: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in numbered.iterdir():
        memory.pipe(f"/films/{path.name}", path.read_bytes())
    stream = SyntheticRadiographsStream("memory://films", transform=brightness)
    assert [image for image, _ in stream] == list(range(23))
    memory.pipe("/films/shard-000002.tar", b"x" * 600)
    with pytest.raises(CorruptShardError, match=r"memory://films/shard-000002.tar"):
        list(stream)
    memory.rm("/films/shard-000004.index")
    with pytest.raises(CorruptShardError, match=r"memory://films/shard-000004.index: cannot be read"):
        SyntheticRadiographsStream("memory://films")
    with pytest.raises(DataError, match=r"memory://nowhere/manifest.json: missing"):
        SyntheticRadiographsStream("memory://nowhere")
    with pytest.raises(UnknownNameError, match="unknown protocol 's4'"):
        SyntheticRadiographsStream("s4://bucket/films")


def test_a_server_that_has_gone_is_named(served: str, numbered: Path) -> None:
    with pytest.raises(DataError, match=r"/none/manifest.json: missing"):
        SyntheticRadiographsStream(f"{served}/none")
    with pytest.raises(StorageError, match=r"127.0.0.1:9/manifest.json: cannot be read .*check the address"):
        SyntheticRadiographsStream("http://127.0.0.1:9")


@pytest.mark.parametrize("shuffle", [0, 6])
@pytest.mark.parametrize("given", [0, 1, 9, 22, 23])
def test_an_epoch_resumes_where_it_stood(numbered: Path, shuffle: int, given: int) -> None:
    def opened() -> SyntheticRadiographsStream:
        return SyntheticRadiographsStream(numbered, transform=brightness, shuffle=shuffle, seed=2)

    whole = opened()
    whole.set_epoch(3)
    expected = [image for image, _ in whole]
    first = opened()
    first.set_epoch(3)
    films = iter(first)
    before = [next(films)[0] for _ in range(given)]
    state = first.state_dict()
    second = opened()
    second.load_state_dict(state)
    assert before + [image for image, _ in second] == expected
    assert len(list(second)) == 23  # the next iteration is a whole one


def test_a_state_of_something_else_is_refused(numbered: Path) -> None:
    state = SyntheticRadiographsStream(numbered, shuffle=4).state_dict()
    for other in ({"shuffle": 5}, {"seed": 1, "shuffle": 4}, {"shuffle": 4, "world_size": 2, "rank": 0}):
        with pytest.raises(DataError, match="the saved state differs in"):
            SyntheticRadiographsStream(numbered, **other).load_state_dict(state)  # type: ignore[arg-type]


def test_torchdata_resumes_every_worker(numbered: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaders = pytest.importorskip("torchdata.stateful_dataloader")

        def opened():  # type: ignore[no-untyped-def]
            stream = SyntheticRadiographsStream(numbered, transform=brightness, shuffle=3, seed=1)
            return loaders.StatefulDataLoader(
                stream, batch_size=2, num_workers=2, multiprocessing_context="fork"
            )

        expected = [batch.tolist() for batch, _ in opened()]
        loader = opened()
        films = iter(loader)
        before = [next(films)[0].tolist() for _ in range(5)]
        state = loader.state_dict()
        del films, loader
        again = opened()
        again.load_state_dict(state)
        assert before + [batch.tolist() for batch, _ in again] == expected
    assert sorted(film for batch in expected for film in batch) == list(range(23))
