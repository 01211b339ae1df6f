"""The base of the map-style data sets: torchvision's `VisionDataset` over a tuple of films.

    image, target = films[i]      PIL "L" image and float32 tensor (f,): 1 present, 0 absent, NaN unknown
    films.image(i)                uint8 (H, W)
    films.labels                  float32 (n, f), one column for each of `films.findings`
    films.records                 what else is known of each film; films.films says where it lies

Nothing is decoded before it is asked for. A data set pickles into DataLoader workers, forked or spawned.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import VisionDataset

from synthaug import findings as vocabulary
from synthaug.datasets.decode import Progress, in_threads
from synthaug.datasets.formats.listing import Listing
from synthaug.datasets.notebook import picture_grid
from synthaug.datasets.selection import label_columns, label_matrix
from synthaug.errors import ImageError
from synthaug.images import read, resize


class Radiographs(VisionDataset):
    """Radiographs with labels.

    Args:
        root: their folder.
        listing: the films, what was left out, and how the folder was read.
        findings: columns of the labels, by any alias; those of the listing when None.
        transform: of the PIL "L" image.
        target_transform: of the float32 label vector.
        image_size: resize to a square of this many pixels; as stored when None.
        fit: how: "crop", "pad" or "squash" (see `synthaug.images.resize`).

    Raises:
        UnknownNameError: a finding is not known.
        DataError: no finding is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        listing: Listing,
        findings: str | Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        image_size: int | None = None,
        fit: str = "crop",
    ) -> None:
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.findings = label_columns(listing.findings if findings is None else findings)
        self.format, self.reading, self.left_out = listing.format, listing.reading, listing.left_out
        self.image_size, self.fit = image_size, fit
        self.films = listing.films
        self.records = [film.record for film in self.films]
        self.labels = label_matrix(self.records, self.findings)

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(self.image(index))
        target: Any = self.target(index)
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target

    def image(self, index: int) -> np.ndarray:
        """The image, uint8 (H, W), resized to `image_size` when there is one.

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        film = self.films[index]
        try:
            image = read(film.source())
        except ImageError as error:
            reason = str(error) if film.name in str(error) else f"{film.name}: {error}"
            raise ImageError(f"{reason}; --skip-bad (skip_bad=True) leaves such films out") from error
        return image if self.image_size is None else resize(image, self.image_size, self.fit)

    def target(self, index: int) -> Tensor:
        """The label vector, float32 (f,), the caller's own copy."""
        return torch.from_numpy(self.labels[index].copy())

    def images_array(self, size: int, fit: str = "crop", progress: Progress | None = None) -> np.ndarray:
        """Every image decoded and resized once, to be held in memory: uint8 (n, 1, size, size).

        Raises:
            ImageError: one cannot be read.
        """
        held = np.empty((len(self), 1, size, size), np.uint8)

        def put(index: int) -> None:
            held[index, 0] = resize(self.image(index), size, fit)

        in_threads(put, len(self), progress)
        return held

    @property
    def keys(self) -> list[str]:
        """What names each film within its folder."""
        return [record.key for record in self.records]

    @property
    def patients(self) -> list[str | None]:
        """An identifier that films of one patient share; None when unknown."""
        return [record.patient for record in self.records]

    @property
    def views(self) -> list[str | None]:
        """ "PA", "AP", "lateral", or None when unknown."""
        return [record.view for record in self.records]

    @property
    def ages(self) -> list[float | None]:
        """Years, or None when unknown."""
        return [record.age for record in self.records]

    @property
    def sexes(self) -> list[str | None]:
        """ "F", "M", or None when unknown."""
        return [record.sex for record in self.records]

    @property
    def synthetic(self) -> np.ndarray:
        """Which films were generated, bool (n,)."""
        return np.array([record.synthetic for record in self.records], dtype=bool)

    def column(self, finding: str) -> np.ndarray:
        """The labels of one finding, float32 (n,), whether or not it is among `findings`.

        Raises:
            UnknownNameError: the finding is not known.
        """
        finding = vocabulary.canonical(finding)
        if finding in self.findings:
            return self.labels[:, self.findings.index(finding)]
        return label_matrix(self.records, (finding,))[:, 0]

    def subset(self, indices: Iterable[int] | np.ndarray) -> Self:
        """The chosen films in the order given; a boolean mask (n,) also chooses.

        Raises:
            IndexError: there is no such film.
        """
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if chosen.dtype == bool:
            if len(chosen) != len(self):
                raise IndexError(f"a mask of {len(chosen)} for {len(self)} films")
            chosen = np.flatnonzero(chosen)
        return self._chosen(np.arange(len(self))[chosen.astype(int)])

    def _chosen(self, indices: np.ndarray) -> Self:
        part = copy.copy(self)
        part.films = tuple(self.films[i] for i in indices)
        part.records = [film.record for film in part.films]
        part.labels = self.labels[indices]
        return part

    def with_findings(self, labels: Mapping[str, float] | None = None, /, **more: float) -> Self:
        """The films with all these labels: `films.with_findings(pleural_effusion=1, cardiomegaly=0)`.

        NaN asks for films where the finding is unknown.

        Raises:
            UnknownNameError: a finding is not known.
            LabelError: a value is not 1, 0 or NaN, or the labels contradict each other.
        """
        wanted = vocabulary.check({**(labels or {}), **more})
        mask = np.ones(len(self), dtype=bool)
        for finding, value in wanted.items():
            column = self.column(finding)
            mask &= np.isnan(column) if math.isnan(value) else column == value
        return self.subset(mask)

    def extra_repr(self) -> str:
        """The lines that `repr` adds to torchvision's."""
        known = {p for p in self.patients if p is not None}
        lines = [f"Format: {self.format}", f"Findings: {', '.join(self.findings)}"]
        lines += [f"Patients: {len(known)}"] if known else []
        lines += [f"{what}: {how}" for what, how in self.reading.items()]
        lines += [f"Left out: {len(keys)} x {reason}" for reason, keys in self.left_out.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return picture_grid(self)
