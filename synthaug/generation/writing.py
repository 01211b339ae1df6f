"""Encode and write one shard in a thread, while the next batch is being sampled; several writers in one folder.

Each shard, and each detector of a study, is written in a folder of its writer and then moved: a worker that is taken for dead may
still write, and must not touch the file of the one that took its place. Equal films give equal bytes, so the last move changes
nothing. In a store a shard is put under a free name only, so writers need no folders of their own.
"""

import os
import queue
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from synthaug.record import Record
from synthaug.shards import ShardEntry, local_path, write_shard
from synthaug.shards.files import fsync_folder

Batch = tuple[range, np.ndarray]
Samples = Callable[[range, np.ndarray], Iterator[tuple[Record, bytes, str]]]
OWN = ".writer-"


@contextmanager
def own_folder(folder: str | Path) -> Iterator[str | Path]:
    """A hidden folder for one writer inside `folder`, which goes with the block; a store's is the folder itself."""
    local = local_path(folder)
    if local is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix=OWN, dir=local, ignore_cleanup_errors=True) as name:
        yield Path(name)


def publish(own: str | Path, folder: str | Path, *names: str) -> None:
    """Move files out of their writer's folder, in this order: what says that the others are there comes last."""
    local = local_path(folder)
    if local is None:
        return
    for name in names:
        os.replace(Path(own) / name, local / name)
    fsync_folder(local)


def sweep(folder: str | Path) -> None:
    """Remove what writers that were killed have left."""
    local = local_path(folder)
    for path in local.glob(OWN + "*") if local else ():
        shutil.rmtree(path, ignore_errors=True)


class ShardWriter:
    """A shard that takes batches; leave the block with an error and nothing of the shard can be seen.

    Args:
        folder, number: of the shard.
        samples: indexes and images (B, 1, H, W) -> records and encoded images, called in the thread.
    """

    def __init__(self, folder: str | Path, number: int, samples: Samples) -> None:
        self._folder, self._number, self._samples = folder, number, samples
        self._batches: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=2)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard")
        self._written: Future[ShardEntry] | None = None

    def __enter__(self) -> Self:
        self._written = self._thread.submit(write_shard, self._folder, self._number, self._stream())
        return self

    def put(self, indexes: range, images: np.ndarray) -> None:
        """Hand over a batch; an error of the thread is raised here."""
        self._send((indexes, images))

    def finish(self) -> ShardEntry:
        """Wait until the shard is on the disk."""
        self._send(None)
        if self._written is None:
            raise RuntimeError("the writer was not entered")
        return self._written.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None and self._written is not None and not self._written.done():
            self._drain()
            self._batches.put(error)
        self._thread.shutdown(wait=True)

    def _send(self, item: Batch | None) -> None:
        while True:
            if self._written is not None and self._written.done():
                self._written.result()
            try:
                return self._batches.put(item, timeout=0.1)
            except queue.Full:
                continue

    def _drain(self) -> None:
        try:
            while True:
                self._batches.get_nowait()
        except queue.Empty:
            return

    def _stream(self) -> Iterator[tuple[Record, bytes, str]]:
        while (item := self._batches.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield from self._samples(*item)
