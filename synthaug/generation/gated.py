"""The films of a shard, batch by batch in the order of their places, with or without gates."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from synthaug import images
from synthaug.generation.folder import encoded
from synthaug.generation.gates import Gates, Judge, Rejection, exhausted, fingerprint
from synthaug.generation.plan import KEY, GenerateRecipe
from synthaug.shards import ShardEntry

Draw = Callable[[Sequence[int], Sequence[int]], np.ndarray]


def batches(
    recipe: GenerateRecipe,
    places: range,
    batch_size: int,
    draw: Draw,
    rejected: dict[int, list[Rejection]],
    folder: str | Path,
    before: Sequence[ShardEntry],
    judge: Judge | None,
) -> Iterator[tuple[range, np.ndarray]]:
    """Places and films (B, 1, H, W) of one shard.

    With gates, all films of the shard are held until the last is accepted, since a shard is written in order.

    Args:
        recipe: resolved.
        places: of the shard.
        batch_size: films drawn together.
        draw: places and noise indexes -> films.
        rejected: place -> its rejected candidates; filled.
        folder, before: where the earlier shards lie, and which they are: films of theirs are not drawn twice.
        judge: of the label gate.

    Raises:
        FailureError: every candidate of a place was rejected.
    """
    if recipe.gates is None:
        for part in _parts(places, batch_size):
            yield range(part[0], part[-1] + 1), draw(part, part)
        return
    gates = Gates(recipe.gates, judge, list(_fingerprints(recipe, folder, before)))
    accepted: dict[int, np.ndarray] = {}
    for attempt in range(recipe.gates.attempts):
        for part in _parts([place for place in places if place not in accepted], batch_size):
            noise = [attempt * recipe.count + place for place in part]
            films = draw(part, noise)
            verdicts = gates.sift(
                stored(films, recipe.format), noise, [entry.labels for entry in recipe.entries(part)]
            )
            for place, film, fault in zip(part, films, verdicts, strict=True):
                if fault is None:
                    accepted[place] = film
                else:
                    rejected.setdefault(place, []).append(fault)
    for place in places:
        if place not in accepted:
            raise exhausted(KEY.format(place), rejected[place])
    for part in _parts(places, batch_size):
        yield range(part[0], part[-1] + 1), np.stack([accepted[place] for place in part])


def stored(films: np.ndarray, format: str) -> np.ndarray:
    """The films as a reader will see them, and so a resumed run: a lossy format changes them a little."""
    if format == "png":
        return films
    return np.stack([images.read(images.encode(film, format))[None] for film in films[:, 0]])


def _fingerprints(
    recipe: GenerateRecipe, folder: str | Path, before: Sequence[ShardEntry]
) -> Iterator[np.ndarray]:
    if recipe.gates is not None and "duplicate" in recipe.gates.names:
        for data in encoded(folder, before):
            yield fingerprint(images.read(data))


def _parts(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
