"""Training films held in memory at the sizes that a route needs, with their records."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from synthaug.datasets.base import Radiographs
from synthaug.errors import DataError
from synthaug.images import resize
from synthaug.record import Record


@dataclass(frozen=True)
class Films:
    """The same N films at several sizes: `pyramid[size]` is uint8 (N, 1, size, size)."""

    pyramid: dict[int, NDArray[np.uint8]]
    records: tuple[Record, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels and labels: which films a run was trained on."""
        sha = hashlib.sha256()
        for size in sorted(self.pyramid):
            sha.update(np.ascontiguousarray(self.pyramid[size]).data)
        for record in self.records:
            sha.update(repr(record.to_json()).encode())
        return sha.hexdigest()

    def count(self, finding: str) -> int:
        """Number of films with the finding."""
        return sum(record.labels.get(finding) == 1 for record in self.records)


def load(
    datasets: Sequence[Radiographs],
    sizes: Iterable[int],
    minimum_age: float = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Films:
    """Decode the films of `datasets` once and keep them at each of `sizes`, whole and square.

    Args:
        datasets: real radiographs; lateral films are left out.
        sizes: edges in pixels.
        minimum_age: films of known younger patients are left out.
        on_progress: called with (films done, films in all).

    Raises:
        DataError: no film is left.
        ImageError: a film cannot be read.
    """
    chosen = [
        (data, index)
        for data in datasets
        for index, record in enumerate(data.records)
        if record.view != "lateral" and not (record.age is not None and record.age < minimum_age)
    ]
    if not chosen:
        roots = ", ".join(str(data.root) for data in datasets)
        raise DataError(f"--data {roots}: no frontal film of a patient of {minimum_age:g} years or more")
    pyramid = {size: np.empty((len(chosen), 1, size, size), np.uint8) for size in sizes}

    def put(position: int) -> None:
        data, index = chosen[position]
        image = data.image(index)
        for size, held in pyramid.items():
            held[position, 0] = resize(image, size, "squash")

    with ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(put, range(len(chosen))), 1):
            if on_progress:
                on_progress(done, len(chosen))
    return Films(pyramid, tuple(data.records[index] for data, index in chosen))
