"""What the gate `duplicate` compares: a film of 32 x 32 as a unit vector, and those of the films accepted before."""

import numpy as np

from synthaug.images import resize

GRID = 32


def fingerprint(film: np.ndarray) -> np.ndarray:
    """A film (H, W) uint8 as a unit vector (GRID²,) without its mean: the product of two is their correlation."""
    small = resize(film, GRID, "squash").astype(np.float32).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > 0 else small


class Fingerprints:
    """Rows of `fingerprint` that grow; another one costs the same however many there are."""

    def __init__(self) -> None:
        self._room, self._count = np.empty((64, GRID * GRID), np.float32), 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: np.ndarray) -> None:
        """One more."""
        if self._count == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._count] = row
        self._count += 1

    def most_alike(self, row: np.ndarray) -> float:
        """The highest correlation with any of them; -1 where there is none."""
        return float((self._room[: self._count] @ row).max(initial=-1))

    def cut(self, count: int) -> None:
        """Forget all but the first."""
        self._count = min(count, self._count)

    def arrange(self, start: int, order: np.ndarray) -> None:
        """Bring the rows from `start` on into this order."""
        self._room[start : self._count] = self._room[start : self._count][order]
