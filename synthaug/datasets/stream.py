"""Synthetic radiographs from front to back, for storage without random access and for many nodes.

Every film is given exactly once in an epoch, whatever the number of nodes and workers: whole shards are dealt
to nodes, then a node's shards to its workers; where shards are fewer than takers, films are dealt instead.
Nothing is repeated to make nodes equal, so a loop over several of them must bear an uneven end. An epoch resumes
in its middle: `state_dict` says where it stands, `load_state_dict` goes on from there.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from synthaug import findings as vocabulary
from synthaug.datasets.selection import label_columns
from synthaug.errors import DataError, ImageError
from synthaug.images import read, resize
from synthaug.record import Record
from synthaug.shards.manifest import read_manifest
from synthaug.shards.reading import named_findings, read_index, read_shard
from synthaug.shards.storage import open_storage

T = TypeVar("T")


class SyntheticRadiographsStream(IterableDataset[tuple[Any, Any]]):
    """Synthetic films as (PIL "L" image, float32 label vector), one after the other.

    Args:
        root: a folder of shards, or a URL that fsspec reads (s3://, gs://, hf://, https://).
        findings: columns of the labels, by any alias; by default those that the records name.
        transform: of the PIL "L" image.
        target_transform: of the label vector.
        shuffle: films in the shuffle buffer; 0 keeps the order. Shards are shuffled too when it is not 0.
        seed: of the shuffle, together with the epoch.
        rank: this node's number; by default torch.distributed's, else RANK of the environment, else 0.
        world_size: number of nodes; found likewise.
        image_size: resize to a square of this many pixels.
        fit: how: "crop", "pad" or "squash".

    Raises:
        DataError: no folder of shards.
        CorruptShardError: a damaged manifest or index, or later a damaged shard.
        UnknownNameError: a finding is not known.
    """

    def __init__(
        self,
        root: str | Path,
        findings: str | Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        image_size: int | None = None,
        fit: str = "crop",
    ) -> None:
        self.storage = open_storage(root)
        self.root = self.storage.root
        self.shards = read_manifest(root).shards
        self.counts = [entry.count for entry in self.shards]
        if findings is None:
            findings = named_findings(read_index(self.storage, entry) for entry in self.shards)
        self.findings = label_columns(findings)
        self.transform, self.target_transform = transform, target_transform
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.image_size, self.fit = image_size, fit
        # Shared memory, so that workers which outlive an epoch see the next one's number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._given = self._skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of this epoch; call it before each one."""
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where this epoch stands, as plain values: what `load_state_dict` goes on from.

        In a DataLoader with workers each worker has its own state: torchdata's `StatefulDataLoader` keeps them.
        """
        return {**self._identity(), "epoch": int(self._epoch), "given": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration go on after the films that `state` had given, in the same order.

        Raises:
            DataError: the state of another data set, shuffle or number of nodes: its place means nothing here.
        """
        here = self._identity()
        if differing := [name for name, value in here.items() if state.get(name) != value]:
            raise DataError(
                f"{self.root}: the saved state differs in {', '.join(differing)}; begin the epoch anew, or open "
                "the stream as it was"
            )
        self.set_epoch(int(state["epoch"]))
        self._skip = int(state["given"])

    def _identity(self) -> dict[str, Any]:
        rank, world = self._node()
        shards = hashlib.sha256("".join(entry.sha256 for entry in self.shards).encode()).hexdigest()
        order = {"shuffle": self.shuffle, "seed": self.seed, "rank": rank, "world_size": world}
        return {"shards": shards, **order}

    def __len__(self) -> int:
        """Films that this node gets."""
        rank, world = self._node()
        order = self._order()
        if len(order) >= world:
            return sum(self.counts[shard] for shard in order[rank::world])
        return len(range(rank, sum(self.counts), world))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        rank, world = self._node()
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        samples = self._samples(rank, world, worker, workers)
        if self.shuffle:
            rng = np.random.default_rng((self.seed, int(self._epoch), rank, worker))
            samples = shuffled(samples, self.shuffle, rng)
        self._given, self._skip = self._skip, 0
        for record, data in islice(samples, self._given, None):  # what was given before is read, not decoded
            self._given += 1
            yield self._pair(record, data)

    def __getstate__(self) -> dict[str, Any]:
        rank, world = self._node()  # a spawned worker cannot ask torch.distributed
        return {**self.__dict__, "rank": rank, "world_size": world}

    def _pair(self, record: Record, data: bytes) -> tuple[Any, Any]:
        try:
            pixels = read(data)
        except ImageError as error:
            raise ImageError(f"{self.root}: {record.key}: {error}; `synthaug verify {self.root}`") from error
        if self.image_size is not None:
            pixels = resize(pixels, self.image_size, self.fit)
        image: Any = Image.fromarray(pixels)
        target: Any = torch.from_numpy(vocabulary.vector(record.labels, self.findings))
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def _node(self) -> tuple[int, int]:
        together = dist.is_available() and dist.is_initialized()
        rank, world = self.rank, self.world_size
        if rank is None:
            rank = dist.get_rank() if together else int(os.environ.get("RANK", "0"))
        if world is None:
            world = dist.get_world_size() if together else int(os.environ.get("WORLD_SIZE", "1"))
        return rank, world

    def _order(self) -> list[int]:
        """Shard numbers in this epoch's order, the same on every node."""
        shards = list(range(len(self.counts)))
        if self.shuffle:
            np.random.default_rng((self.seed, int(self._epoch))).shuffle(shards)
        return shards

    def _samples(self, rank: int, world: int, worker: int, workers: int) -> Iterator[tuple[Record, bytes]]:
        mine, steps = self._order(), []
        for place, takers in ((rank, world), (worker, workers)):
            if len(mine) >= takers:
                mine = mine[place::takers]
            else:
                steps.append((place, takers))
        samples: Iterator[tuple[Record, bytes]] = self._read(mine)
        for place, takers in steps:
            samples = islice(samples, place, None, takers)
        return samples

    def _read(self, shards: Sequence[int]) -> Iterator[tuple[Record, bytes]]:
        for shard in shards:
            yield from read_shard(self.storage, self.shards[shard])


def shuffled(items: Iterable[T], size: int, rng: np.random.Generator) -> Iterator[T]:
    """The items through a buffer of `size`: each time a random one of those held is given."""
    held: list[T] = []
    for item in items:
        if len(held) < size:
            held.append(item)
            continue
        place = int(rng.integers(size))
        held[place], item = item, held[place]
        yield item
    rng.shuffle(held)
    yield from held
