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
from synthaug.datasets.formats.listing import Listing, ordered
from synthaug.datasets.formats.shards import ShardFilms
from synthaug.datasets.notebook import picture_grid
from synthaug.datasets.selection import label_columns, label_matrix
from synthaug.errors import DataError, ImageError, NotInstalledError
from synthaug.images import read, resize
from synthaug.record import Record


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
        self._records: list[Record] | None = None
        self._labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.films)

    @property
    def records(self) -> list[Record]:
        """What is known of each film; read from the shards at first use."""
        if self._records is None:
            films = self.films
            self._records = (
                films.records() if isinstance(films, ShardFilms) else [film.record for film in films]
            )
        return self._records

    @property
    def labels(self) -> np.ndarray:
        """Labels, float32 (n, f): 1 present, 0 absent, NaN unknown, one column for each of `findings`."""
        if self._labels is None:
            self._labels = self._columns(self.findings)
        return self._labels

    def _columns(self, findings: Sequence[str]) -> np.ndarray:
        if isinstance(self.films, ShardFilms):
            return self.films.labels(findings)
        return label_matrix(self.records, findings)

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
        return self.films.keys() if isinstance(self.films, ShardFilms) else [r.key for r in self.records]

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
        if isinstance(self.films, ShardFilms) and self.films.synthetic is not None:
            return np.full(len(self), self.films.synthetic)
        return np.array([record.synthetic for record in self.records], dtype=bool)

    def column(self, finding: str) -> np.ndarray:
        """The labels of one finding, float32 (n,), whether or not it is among `findings`.

        Raises:
            UnknownNameError: the finding is not known.
        """
        finding = vocabulary.canonical(finding)
        if finding in self.findings:
            return self.labels[:, self.findings.index(finding)]
        return self._columns((finding,))[:, 0]

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
        films = self.films
        part.films = (
            films.take(indices) if isinstance(films, ShardFilms) else tuple(films[i] for i in indices)
        )
        part._records = None if self._records is None else [self._records[i] for i in indices]
        part._labels = None if self._labels is None else self._labels[indices]
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

    def relabel(self, findings: str | Sequence[str]) -> Self:
        """The same films with other label columns.

        Raises:
            UnknownNameError: a finding is not known.
            DataError: no finding is asked for.
        """
        other = copy.copy(self)
        other.findings, other._labels = label_columns(findings), None
        return other

    def totals(self) -> dict[str, dict[str, int]]:
        """How often each finding is present, absent and unknown."""
        return {
            finding: {
                "present": int((column == 1).sum()),
                "absent": int((column == 0).sum()),
                "unknown": int(np.isnan(column).sum()),
            }
            for finding, column in zip(self.findings, self.labels.T, strict=True)
        }

    def frame(self) -> Any:
        """The films as a pandas data frame: key, path, patient, view, age, sex, synthetic, split, findings.

        Raises:
            NotInstalledError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise NotInstalledError("a data frame needs pandas; pip install pandas") from error
        facts = {
            "key": self.keys,
            "path": [str(film.path) for film in self.films],
            "patient": self.patients,
            "view": self.views,
            "age": np.array([np.nan if age is None else age for age in self.ages], dtype=float),
            "sex": self.sexes,
            "synthetic": self.synthetic,
            "split": [record.provenance.get("split") for record in self.records],
        }
        columns = {finding: self.labels[:, place] for place, finding in enumerate(self.findings)}
        return pandas.DataFrame({**facts, **columns})

    def __add__(self, other: "Radiographs") -> "Radiographs":
        """The films of both, one after the other, with the findings of either.

        Patients keep their identifiers: where two data sets use the same one, the films count as one patient's.

        Raises:
            DataError: something else than radiographs, or other transforms or sizes: they cannot both hold.
        """
        if not isinstance(other, Radiographs):
            raise DataError(f"found {type(other).__name__} after +, expected radiographs")
        mine = (self.transform, self.target_transform, self.image_size, self.fit)
        if mine != (other.transform, other.target_transform, other.image_size, other.fit):
            raise DataError(
                f"{self.root} + {other.root}: found other transforms, image_size or fit; give both the same"
            )
        return Radiographs(
            self.root,
            Listing(
                format=self.format if self.format == other.format else f"{self.format} + {other.format}",
                films=(*self.films, *other.films),
                findings=ordered({*self.findings, *other.findings}),
                left_out={
                    reason: (*self.left_out.get(reason, ()), *other.left_out.get(reason, ()))
                    for reason in {**self.left_out, **other.left_out}
                },
                reading={
                    "first": f"{len(self)} films of {self.root}",
                    "second": f"{len(other)} of {other.root}",
                },
            ),
            None,
            *mine,
        )

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
