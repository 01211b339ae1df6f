"""Encode and write one shard in a thread, while the next batch is being sampled."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from synthaug.record import Record
from synthaug.shards import ShardEntry, write_shard

Batch = tuple[range, np.ndarray]
Samples = Callable[[range, np.ndarray], Iterator[tuple[Record, bytes, str]]]


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
