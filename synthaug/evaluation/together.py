"""Several data sets read as one, in their order; nothing is decoded before it is asked for."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from synthaug.errors import DataError


class Together:
    """Data sets one after another, with what the metrics ask of a data set.

    Raises `DataError` where there is no film at all.
    """

    def __init__(self, sets: Sequence[Any], places: Sequence[tuple[int, int]] | None = None) -> None:
        self.sets = list(sets)
        whole = [(number, i) for number, one in enumerate(self.sets) for i in range(len(one))]
        self.places = whole if places is None else list(places)
        if not whole:
            raise DataError(
                "no film to read: the folders are empty; `synthaug data DIR` shows what a folder holds"
            )

    def __len__(self) -> int:
        return len(self.places)

    def _each(self, name: str) -> list[Any]:
        values = [getattr(one, name) for one in self.sets]
        return [values[number][i] for number, i in self.places]

    @property
    def records(self) -> list[Any]:
        return self._each("records")

    @property
    def keys(self) -> list[str]:
        return self._each("keys")

    @property
    def patients(self) -> list[str | None]:
        return self._each("patients")

    @property
    def views(self) -> list[str | None]:
        return self._each("views")

    @property
    def ages(self) -> list[float | None]:
        return self._each("ages")

    @property
    def sexes(self) -> list[str | None]:
        return self._each("sexes")

    @property
    def findings(self) -> tuple[str, ...]:
        """Every finding that one of the sets names."""
        return tuple(dict.fromkeys(name for one in self.sets for name in one.findings))

    @property
    def labels(self) -> np.ndarray:
        """Labels (n, f) of `findings`, NaN where unknown."""
        return np.stack([self.column(name) for name in self.findings], 1)

    @property
    def names(self) -> list[str]:
        """Each film as "folder/key"."""
        return [f"{Path(self.sets[n].root).name}/{self.sets[n].keys[i]}" for n, i in self.places]

    def column(self, finding: str) -> np.ndarray:
        """The values (n,) of one finding, NaN where unknown."""
        columns = [one.column(finding) for one in self.sets]
        return np.array([columns[number][i] for number, i in self.places], np.float32)

    def subset(self, indices: Iterable[int] | np.ndarray) -> "Together":
        """The chosen films, by index or mask, in the order given."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        at = np.arange(len(self))[chosen if chosen.dtype == bool else chosen.astype(int)]
        return Together(self.sets, [self.places[i] for i in at])

    def images_array(self, size: int, fit: str = "crop") -> np.ndarray:
        """The images, uint8 (n, 1, size, size)."""
        out = np.empty((len(self), 1, size, size), np.uint8)
        owner = np.array([number for number, _ in self.places])
        for number in np.unique(owner):
            rows = np.flatnonzero(owner == number)
            chosen = [self.places[row][1] for row in rows]
            out[rows] = cast(Any, self.sets[number]).subset(chosen).images_array(size, fit)
        return out
