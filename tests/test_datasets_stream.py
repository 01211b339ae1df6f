"""The stream: each film exactly once over nodes and workers, and a seeded shuffle."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from synthaug import shards
from synthaug.datasets import SyntheticRadiographs, SyntheticRadiographsStream
from synthaug.datasets.stream import shuffled
from synthaug.errors import CorruptShardError, DataError, ImageError
from synthaug.images import encode
from synthaug.record import Record

# More workers than processors is what some of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventeen films in five uneven shards; film i has the brightness i."""
    folder = tmp_path_factory.mktemp("numbered")
    entries, start = [], 0
    for number, count in enumerate((4, 1, 5, 3, 4)):
        samples = [
            (
                Record(f"{i:09d}", {"no_finding": float(i % 2 == 0), "edema": float(i % 2)}, synthetic=True),
                encode(np.full((8, 8), i, np.uint8)),
                "png",
            )
            for i in range(start, start + count)
        ]
        entries.append(shards.write_shard(folder, number, samples))
        start += count
    shards.write_manifest(folder, entries)
    return folder


def brightness(image: Image.Image) -> Tensor:
    return torch.tensor(int(np.asarray(image).max()))


def seen(stream: SyntheticRadiographsStream, workers: int = 0, context: str | None = None) -> list[int]:
    loader = DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=context)
    return [int(image) for image, _ in loader]


def test_a_stream_gives_what_random_access_gives(tiny_shards: Path) -> None:
    stream = SyntheticRadiographsStream(tiny_shards)
    films = SyntheticRadiographs(tiny_shards)
    assert stream.findings == films.findings and len(stream) == 24
    for (image, target), (expected, expected_target) in zip(stream, films, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
        assert torch.equal(target, expected_target)
    small = SyntheticRadiographsStream(
        tiny_shards, "no_finding", image_size=16, target_transform=torch.Tensor.tolist
    )
    image, target = next(iter(small))
    assert image.size == (16, 16) and target == [1.0]


@pytest.mark.parametrize("world", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("shuffle", [0, 4])
def test_every_film_once_over_nodes(numbered: Path, world: int, shuffle: int) -> None:
    films: list[int] = []
    for rank in range(world):
        stream = SyntheticRadiographsStream(
            numbered, transform=brightness, shuffle=shuffle, seed=5, rank=rank, world_size=world
        )
        node = seen(stream)
        assert len(node) == len(stream)
        films += node
    assert sorted(films) == list(range(17))


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 4), (7, 2)])
def test_every_film_once_over_nodes_and_workers(numbered: Path, world: int, workers: int) -> None:
    films: list[int] = []
    for rank in range(world):
        stream = SyntheticRadiographsStream(
            numbered, transform=brightness, shuffle=3, rank=rank, world_size=world
        )
        films += seen(stream, workers, "fork")
    assert sorted(films) == list(range(17))


def test_a_spawned_worker_streams_what_this_process_streams(numbered: Path) -> None:
    stream = SyntheticRadiographsStream(numbered, transform=brightness, shuffle=3)
    assert seen(stream, 1, "spawn") == seen(stream)


def test_the_environment_tells_the_node(numbered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    stream = SyntheticRadiographsStream(numbered, transform=brightness)
    assert seen(stream) == [4, 10, 11, 12]
    frozen = pickle.loads(pickle.dumps(stream))  # as a spawned worker gets it
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert seen(frozen) == [4, 10, 11, 12]


def test_the_shuffle_is_a_function_of_seed_and_epoch(numbered: Path) -> None:
    stream = SyntheticRadiographsStream(numbered, transform=brightness, shuffle=6, seed=1)
    first, again = seen(stream), seen(stream)
    stream.set_epoch(1)
    second = seen(stream)
    other = seen(SyntheticRadiographsStream(numbered, transform=brightness, shuffle=6, seed=2))
    assert first == again and len({tuple(order) for order in (first, second, other, range(17))}) == 4


def test_workers_that_outlive_an_epoch_see_the_next(numbered: Path) -> None:
    stream = SyntheticRadiographsStream(numbered, transform=brightness, shuffle=6)
    loader = DataLoader(
        stream, batch_size=None, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append([int(image) for image, _ in loader])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[1]) == list(range(17))


def test_the_buffer_holds_no_more_than_its_size() -> None:
    taken = 0

    def source() -> "list[int]":
        nonlocal taken
        for i in range(100):
            taken += 1
            yield i

    given = []
    for item in shuffled(source(), 10, np.random.default_rng(0)):
        given.append(item)
        assert taken - len(given) <= 10
    assert sorted(given) == list(range(100)) and given != list(range(100))


def test_a_stream_names_what_is_broken(tmp_path: Path, tiny_shards: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.json: missing"):
        SyntheticRadiographsStream(tmp_path)
    stream = SyntheticRadiographsStream(tiny_shards)
    tar = tiny_shards / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(CorruptShardError, match=r"shard-000001.tar"):
        list(stream)
    record = Record("000000000", {"edema": 1.0}, synthetic=True)
    shards.write_manifest(tiny_shards, [shards.write_shard(tiny_shards, 0, [(record, b"noise", "png")])])
    with pytest.raises(ImageError, match=r"000000000: .*synthaug verify"):
        list(SyntheticRadiographsStream(tiny_shards))
