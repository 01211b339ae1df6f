"""ChestMNIST (Yang et al. 2023) as a data set of real films, by way of the `medmnist` package, which downloads it once.

ChestMNIST is NIH ChestX-ray14 at 28 to 224 px with its own train, validation and test; it names no patients. A generator
adapted on NIH films may have seen the same patients there, which no guard can find out: the note of a study says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from synthaug.errors import DataError, NotInstalledError, UnknownNameError
from synthaug.findings import canonical
from synthaug.images import resize
from synthaug.record import Record

PREFIX = "medmnist:"
SETS = ("chestmnist",)
SIZES = (28, 64, 128, 224)


@dataclass(frozen=True)
class MedMNISTRadiographs:
    """Films of a MedMNIST set, offered as every data set of real films is (`RadiographData`)."""

    images: np.ndarray
    labels: np.ndarray
    findings: tuple[str, ...]
    keys: tuple[str, ...]
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def patients(self) -> list[str | None]:
        """None of them is known."""
        return [None] * len(self)

    def column(self, finding: str) -> np.ndarray:
        """The labels (n,) of a finding. Raises `UnknownNameError`."""
        if finding not in self.findings:
            raise UnknownNameError("finding", finding, self.findings)
        return self.labels[:, self.findings.index(finding)]

    def subset(self, indices: Iterable[int] | np.ndarray) -> Self:
        """The chosen films, in the order given."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=int)
        return type(self)(
            self.images[chosen],
            self.labels[chosen],
            self.findings,
            tuple(self.keys[i] for i in chosen),
            tuple(self.records[i] for i in chosen),
        )

    def images_array(self, size: int, fit: str = "crop") -> np.ndarray:
        """The images at another size, uint8 (n, 1, size, size)."""
        if self.images.shape[-1] == size:
            return self.images[:, None]
        return np.stack([resize(image, size, fit)[None] for image in self.images])


def open_medmnist(source: str, image_size: int = 224, root: str | None = None) -> MedMNISTRadiographs:
    """`medmnist:chestmnist`, all three splits; `Record.provenance["split"]` says which.

    Arguments: `root` the folder that `medmnist` downloads to, by default its own. Raises `NotInstalledError` without the
    package, `UnknownNameError` for another set, `DataError` where the set cannot be had.
    """
    name = source.removeprefix(PREFIX)
    if name not in SETS:
        raise UnknownNameError("MedMNIST set", name, SETS)
    try:
        import medmnist
    except ImportError:
        raise NotInstalledError(
            f"--real {source} needs the medmnist package; run `pip install 'synthaug[medmnist]'`"
        ) from None
    where: dict[str, Any] = {} if root is None else {"root": root}
    opened = {}
    for split in ("train", "val", "test"):
        try:
            opened[split] = medmnist.ChestMNIST(split=split, download=True, size=image_size, **where)
        except (RuntimeError, OSError) as fault:
            raise DataError(
                f"--real {source}: medmnist could not get it ({fault}); a network is needed once"
            ) from fault
    return joined(opened)


def joined(opened: dict[str, Any]) -> MedMNISTRadiographs:
    """MedMNIST splits (each with `imgs`, `labels` and `info`) as one data set; a film without any finding is `no_finding`."""
    names = next(iter(opened.values())).info["label"]
    findings = ("no_finding", *(canonical(names[key]) for key in sorted(names, key=int)))
    images, rows, records = [], [], []
    for split, films in opened.items():
        values = np.asarray(films.labels, np.float32)
        whole = np.concatenate([(values.sum(1, keepdims=True) == 0).astype(np.float32), values], 1)
        images.append(np.asarray(films.imgs, np.uint8))
        rows.append(whole)
        for index, row in enumerate(whole):
            labels = dict(zip(findings, row.tolist(), strict=True))
            provenance = {"split": {"val": "validation"}.get(split, split)}
            records.append(Record(key=f"{split}-{index:06d}", labels=labels, provenance=provenance))
    return MedMNISTRadiographs(
        np.concatenate(images), np.concatenate(rows), findings, tuple(r.key for r in records), tuple(records)
    )
