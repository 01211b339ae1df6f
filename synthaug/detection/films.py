"""Films held in memory: every data set, decoded and resized once, as one block of pixels beside one label matrix.

Conventions: images are uint8 (n, 1, s, s), 0 black to 255 white; labels are float32 (n, findings) with 1 present,
0 absent, NaN unknown; a film whose patient is not known counts as a patient of its own, named "film:...".
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import numpy as np

from synthaug.errors import DataError
from synthaug.findings import FINDINGS, canonical, matrix
from synthaug.images import resize

Fit = Literal["crop", "pad", "squash"]
ALONE = "film:"


class RadiographData(Protocol):
    """What a data set must offer to be trained on; every data set of `synthaug.datasets` does, and so do `Films`."""

    @property
    def findings(self) -> Sequence[str]: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def patients(self) -> Sequence[str | None]: ...

    @property
    def keys(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def images_array(self, size: int, fit: str = "crop") -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Films:
    """Decoded films of one size, with their labels and patients; they can be held again."""

    images: np.ndarray
    labels: np.ndarray
    findings: tuple[str, ...]
    patients: tuple[str, ...]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def images_array(self, size: int, fit: str = "crop") -> np.ndarray:
        """The images at another size, or as they are."""
        if self.images.shape[-1] == size:
            return self.images
        return np.stack([resize(image[0], size, fit)[None] for image in self.images])

    def column(self, finding: str) -> np.ndarray:
        """The values (n,) of one finding; all NaN where the films do not name it."""
        if finding in self.findings:
            return self.labels[:, self.findings.index(finding)]
        return np.full(len(self), np.nan, np.float32)

    def digest(self) -> str:
        """A hash of pixels and labels: the same films in the same order have the same."""
        parts = hashlib.sha256(repr((self.findings, self.patients, self.keys)).encode())
        for block in (self.images, np.nan_to_num(self.labels, nan=-1)):
            parts.update(np.ascontiguousarray(block).data)
        return parts.hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Films":
        """The chosen films, in the order given."""
        chosen = np.asarray(indices, dtype=int)
        return Films(
            self.images[chosen],
            self.labels[chosen],
            self.findings,
            tuple(self.patients[i] for i in chosen),
            tuple(self.keys[i] for i in chosen),
        )


def align(labels: np.ndarray, have: Sequence[str], want: Sequence[str]) -> np.ndarray:
    """Reorder the columns `have` of a label matrix to `want`: NaN where unknown, then what `no_finding` implies."""
    return matrix([dict(zip(have, row, strict=True)) for row in labels.tolist()], want)


def hold(
    data: RadiographData | Iterable[RadiographData],
    image_size: int,
    findings: Sequence[str] | None = None,
    fit: Fit = "crop",
) -> Films:
    """Decode data sets into one block of films of `image_size` pixels.

    Arguments: `findings` fixes the label columns; by default the union of those the data sets know, in vocabulary order.
    Raises `DataError` where nothing is left to hold, `UnknownNameError` for an unknown finding.
    """
    sets = [data] if hasattr(data, "images_array") else list(data)
    sets = cast("list[RadiographData]", sets)
    if not sum(len(one) for one in sets):
        raise DataError(
            "no film to read: the data set is empty; `synthaug data DIR` shows what a folder holds"
        )
    if findings is None:
        known = {f for one in sets for f in one.findings}
        findings = [f for f in FINDINGS if f in known]
    wanted = tuple(canonical(f) for f in findings)
    blocks, labels, patients, keys = [], [], [], []
    for number, one in enumerate(sets):
        blocks.append(one.images_array(image_size, fit))
        labels.append(align(np.asarray(one.labels, np.float32), list(one.findings), wanted))
        keys += list(one.keys)
        patients += [
            f"{ALONE}{number}:{key}" if p is None else p
            for p, key in zip(one.patients, one.keys, strict=True)
        ]
    return Films(np.concatenate(blocks), np.concatenate(labels), wanted, tuple(patients), tuple(keys))


def known_patients(films: Films) -> list[str | None]:
    """The patient of each film, None where unknown."""
    return [None if name.startswith(ALONE) else name for name in films.patients]


def split_films(films: Films | Sequence[str], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split by patient: indices of the larger and of the smaller part, which gets `fraction` of the patients (at least one).

    Arguments: `films`, or the patient of each film.
    """
    owners = films.patients if isinstance(films, Films) else tuple(films)
    patients = sorted(set(owners))
    if len(patients) < 2:
        raise DataError(
            f"a split by patient needs two patients or more, found {len(patients)}; pass a validation data set"
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
    held_out = {patients[i] for i in order[:count]}
    inside = np.array([p in held_out for p in owners])
    return np.flatnonzero(~inside), np.flatnonzero(inside)
