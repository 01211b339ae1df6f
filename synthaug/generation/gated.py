"""The films of a shard, batch by batch in the order of their places, with or without gates."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from synthaug import images
from synthaug.generation.duplicates import Fingerprints, fingerprint
from synthaug.generation.folder import encoded
from synthaug.generation.gates import Gates, Judge, Rejection, exhausted
from synthaug.generation.plan import KEY, GenerateRecipe
from synthaug.shards import ShardEntry

Draw = Callable[[Sequence[int], Sequence[int]], np.ndarray]


class Earlier:
    """Fingerprints of the films before the shard that is drawn, where there is a gate that compares them.

    A shard that lies there is read once; of one that is drawn now, the gate has seen the films. Both leave the same rows in
    the same order, so that what is accepted does not depend on interruptions.

    Args:
        folder: where the shards lie.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder, self._films, self._ends = folder, Fingerprints(), [0]

    def of(self, before: Sequence[ShardEntry]) -> Fingerprints:
        """Those of these shards, the first of the run, in the order of their films; the gate adds to them."""
        self._films.cut(self._ends[-1])  # what a shard that came to nothing has left
        for entry in before[len(self._ends) - 1 :]:
            for data in encoded(self._folder, [entry]):
                self._films.add(fingerprint(images.read(data)))
            self._ends.append(len(self._films))
        return self._films

    def written(self) -> None:
        """What was added since is the next shard."""
        self._ends.append(len(self._films))


def batches(
    recipe: GenerateRecipe,
    places: range,
    batch_size: int,
    draw: Draw,
    rejected: dict[int, list[Rejection]],
    earlier: Fingerprints,
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
        earlier: of the films of earlier shards, which are not drawn twice; those of this one follow, in order.
        judge: of the label gate.

    Raises:
        FailureError: every candidate of a place was rejected.
    """
    if recipe.gates is None:
        for part in _parts(places, batch_size):
            yield range(part[0], part[-1] + 1), draw(part, part)
        return
    start, gates = len(earlier), Gates(recipe.gates, judge, earlier)
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
    if len(earlier) > start:
        earlier.arrange(start, np.argsort(list(accepted)))
    for part in _parts(places, batch_size):
        yield range(part[0], part[-1] + 1), np.stack([accepted[place] for place in part])


def stored(films: np.ndarray, format: str) -> np.ndarray:
    """The films as a reader will see them, and so a resumed run: a lossy format changes them a little."""
    if format == "png":
        return films
    return np.stack([images.read(images.encode(film, format))[None] for film in films[:, 0]])


def _parts(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
