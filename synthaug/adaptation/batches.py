"""A batch as a function of (seed, step): its random numbers, each process's share of it, and the pieces that a device takes."""

import math
from collections.abc import Iterator
from typing import Any

import torch


def length(batch: Any) -> int:
    """Films of a batch, a tensor or a named tuple of tensors."""
    return len(batch[0] if isinstance(batch, tuple) else batch)


def pieces(batch: Any, size: int | None) -> Iterator[Any]:
    """A batch, a tensor or a named tuple of tensors, cut into pieces of at most `size` films."""
    if size is None or length(batch) <= size:
        yield batch
    elif isinstance(batch, tuple):
        yield from (type(batch)(*parts) for parts in zip(*(part.split(size) for part in batch), strict=True))
    else:
        yield from batch.split(size)


def draws(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A generator on the CPU that depends on (seed, step, stream) alone."""
    mixed = (seed * 1_000_003 + step) * 64 + stream
    return torch.Generator().manual_seed(mixed % (2**63 - 1))


def share(total: int, rank: int, world: int) -> slice:
    """The slice of a global batch of `total` that belongs to `rank`."""
    size = math.ceil(total / world)
    return slice(rank * size, min(total, (rank + 1) * size))
