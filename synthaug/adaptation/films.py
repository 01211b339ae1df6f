"""Training films at the sizes that a route needs, with their records: in memory, or mapped from disk beyond a limit."""

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthaug.datasets.base import Radiographs
from synthaug.errors import DataError, DiskFullError
from synthaug.findings import FINDINGS, NO_FINDING
from synthaug.images import resize
from synthaug.record import Record


@dataclass(frozen=True)
class Films:
    """The same N films at several sizes: `pyramid[size]` is uint8 (N, 1, size, size), perhaps mapped from disk."""

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

    def seen(self, before: Iterable[str] = ()) -> tuple[str, ...]:
        """The findings that a film shows by its labels, and those of `before`, in vocabulary order."""
        known = set(before)
        return tuple(f for f in FINDINGS if f in known or (f != NO_FINDING and self.count(f)))

    def count(self, finding: str) -> int:
        """Number of films with the finding."""
        return sum(record.labels.get(finding) == 1 for record in self.records)


@dataclass(frozen=True)
class Storage:
    """Films that take more than `limit` bytes lie in `folder`, in a file without a name that goes with the process."""

    folder: Path
    limit: int

    def empty(self, count: int, sizes: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
        """Space for `count` films at each of `sizes`.

        Raises:
            DiskFullError: the disk has no room for them.
        """
        shapes = {size: (count, 1, size, size) for size in sizes}
        needed = sum(count * size * size for size in shapes)
        if needed <= self.limit:
            return {size: np.empty(shape, np.uint8) for size, shape in shapes.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DiskFullError(
                f"{self.folder}: {count} films at {', '.join(map(str, shapes))} px need {needed / 1e9:.2f} GB, found "
                f"{free / 1e9:.2f} GB free; free some, choose another --out, or raise --film-memory"
            )
        held: dict[int, NDArray[np.uint8]] = {}
        for size, shape in shapes.items():
            with tempfile.TemporaryFile(dir=self.folder) as file:
                held[size] = np.memmap(file, np.uint8, "w+", shape=shape)
        return held


def quarter_of_memory() -> int:
    """Bytes that films may take where nobody says: a quarter of the machine's, or 8 GB where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, OSError, ValueError):
        return 8_000_000_000


def load(
    datasets: Sequence[Radiographs],
    sizes: Iterable[int],
    minimum_age: float = 0,
    on_progress: Callable[[int, int], None] | None = None,
    choose: Callable[[Sequence[Record]], Sequence[int]] | None = None,
    storage: Storage | None = None,
) -> Films:
    """Decode the films of `datasets` once and keep them at each of `sizes`, whole and square.

    Args:
        datasets: real radiographs; lateral films are left out.
        sizes: edges in pixels.
        minimum_age: films of known younger patients are left out.
        on_progress: called with (films done, films in all).
        choose: which of the films to take, from their records; only these are decoded. All when None.
        storage: where they lie; in memory when None.

    Raises:
        DataError: no film is left.
        ImageError: a film cannot be read.
        DiskFullError: they exceed the memory, and the disk.
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
    if choose is not None:
        chosen = [chosen[i] for i in choose([data.records[index] for data, index in chosen])]
    sizes = tuple(sizes)
    if storage is None:
        pyramid = {size: np.empty((len(chosen), 1, size, size), np.uint8) for size in sizes}
    else:
        pyramid = storage.empty(len(chosen), sizes)

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


def for_findings(
    records: Sequence[Record], findings: Sequence[str], per_finding: int | None, seed: int
) -> list[int]:
    """Films that a route learns from: all, or `per_finding` of each finding, drawn by `seed` and the film's key.

    Raises:
        DataError: a finding without a film, or with fewer than were asked for.
    """
    taken: set[int] = set()
    for finding in findings:
        showing = [i for i, record in enumerate(records) if record.labels.get(finding) == 1]
        if len(showing) < (per_finding or 1):
            shown = Counter(name for record in records for name, value in record.labels.items() if value == 1)
            counts = ", ".join(f"{name} {count}" for name, count in shown.most_common()) or "none"
            raise DataError(
                f"findings: the recipe asks for {per_finding or 1} films of {finding}, found {len(showing)} in --data "
                f"(films with a finding: {counts}); give more films, or --set findings=[...]"
            )
        order = sorted(showing, key=lambda i: hashlib.sha256(f"{seed}:{records[i].key}".encode()).digest())
        taken.update(order[:per_finding])
    return sorted(taken) if per_finding else list(range(len(records)))


def lacking(records: Sequence[Record], findings: Iterable[str]) -> list[int]:
    """Indices of the films that are known to show none of `findings`; where a label is missing, nobody knows.

    Raises:
        DataError: no film is left.
    """
    names = tuple(findings)

    def shows_none(record: Record) -> bool:
        labels = record.labels
        return labels.get(NO_FINDING) == 1 or all(labels.get(name) == 0 for name in names)

    found = [i for i, record in enumerate(records) if shows_none(record)]
    if not found:
        raise DataError(
            f"without: none of the {len(records)} films of --data is known not to show {', '.join(names)}; "
            "give labelled films, or --set without=[]"
        )
    return found


def held_out(records: Sequence[Record], fraction: float, seed: int) -> list[int]:
    """Indices of the films of `fraction` of the patients, one at least; a film without a patient is its own."""
    if not fraction:
        return []
    owners = [f"patient:{r.patient}" if r.patient is not None else f"film:{r.key}" for r in records]
    people = sorted(set(owners), key=lambda owner: hashlib.sha256(f"{seed}:{owner}".encode()).digest())
    if len(people) < 2:
        raise DataError(
            "validation: the films are of one patient, so none can be held out; "
            "give films of more patients, or --set validation=0"
        )
    out = set(people[: max(1, round(fraction * len(people)))])
    return [i for i, owner in enumerate(owners) if owner in out]
