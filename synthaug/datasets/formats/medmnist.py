"""MedMNIST's chest data sets: `pneumoniamnist[_SIZE].npz` and `chestmnist[_SIZE].npz`, 28 to 224 pixels a side.

The arrays `train_images`, `train_labels`, `val_...`, `test_...` are official splits. PneumoniaMNIST: 0 normal,
1 pneumonia (Kermany's films). ChestMNIST: fourteen columns in its own order (NIH's films). Nothing is
unpickled; an array is unpacked when its first film is asked for, and the last few are kept. Of several sizes
in a folder the largest is read.

Reference: Yang et al., "MedMNIST v2", Scientific Data 2023 (arXiv:2110.14795).
"""

import re
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from synthaug.datasets.formats import listing
from synthaug.datasets.formats.listing import Film, Listing, Options
from synthaug.datasets.formats.values import split_name
from synthaug.errors import DataError
from synthaug.findings import NO_FINDING, canonical, check
from synthaug.images import encode
from synthaug.record import Record

CHEST = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
    "consolidation", "edema", "emphysema", "fibrosis", "pleural thickening", "hernia",
)  # fmt: skip
SIGN = "pneumoniamnist*.npz or chestmnist*.npz"
MAX_BYTES = 1 << 34  # of one unpacked array; ChestMNIST at 224 px has 4e9
# What zipfile and NumPy raise on damaged archives; the last for a compression that they lack.
UNREADABLE = (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError, zlib.error, NotImplementedError)

_NAME = re.compile(r"(pneumonia|chest)mnist(?:_(\d+))?\.npz")
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class ArrayFilm(Film):
    """Film `number` of an array of an .npz file."""

    array: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.path}: {self.record.key}"

    def source(self) -> bytes:
        return encode(np.ascontiguousarray(_array(str(self.path), self.array)[self.number]))


def detect(root: Path) -> str | None:
    """Why the folder is MedMNIST, or None."""
    found = _archives(root)
    return f"MedMNIST: {found[-1].name}" if found else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of the largest archive: train, val, test.

    Raises:
        DataError: no archive, or one that is damaged or holds something else.
    """
    archives = _archives(root)
    if not archives:
        raise DataError(f"{root}: no {SIGN}")
    path = archives[-1]
    kind = _kind(path)
    known = CHEST if kind == "chest" else ("pneumonia",)
    findings = [canonical(name) for name in known]
    films: list[Film] = []
    for split in _SPLITS:
        labels = _array(str(path), f"{split}_labels")
        count = _shape(path, f"{split}_images")[0]
        if labels.shape != (count, len(findings)) or not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"{path}: found {split}_labels of shape {labels.shape} for {count} images, "
                f"expected {count} x {len(findings)} of 0 and 1"
            )
        for number, row in enumerate(labels):
            values = {finding: float(value) for finding, value in zip(findings, row, strict=True)}
            record = Record(
                f"{split}-{number:06d}",
                check({NO_FINDING: float(not row.any()), **values}),
                provenance={"source": f"{kind}mnist", "split": split_name(split)},
            )
            films.append(ArrayFilm(path, record, f"{split}_images", number))
    reading = {"archive": path.name}
    if len(archives) > 1:
        reading["passed over"] = ", ".join(other.name for other in archives[:-1])
    return Listing(
        "medmnist", listing.some_films(films, root, {}), listing.ordered({NO_FINDING, *findings}), {}, reading
    )


def _archives(root: Path) -> list[Path]:
    """Archives, smallest films first."""
    found = [path for path in root.iterdir() if path.is_file() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_kind(path) == "chest", _size(path)))


def _kind(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    return match[1] if match else ""


def _size(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[2] or 28) if match else 0


def _shape(path: Path, name: str) -> tuple[int, ...]:
    """The shape of an array, from its header: nothing is unpacked.

    Raises:
        DataError: no such array, not plain grey films, or too many bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            reader = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = reader[version](member)
    except UNREADABLE as error:
        raise DataError(f"{path}: {name} cannot be read ({error}); download the archive again") from error
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    plain = dtype.kind in "ui" and len(shape) == (3 if name.endswith("_images") else 2)
    if not plain or (name.endswith("_images") and dtype != np.uint8) or size > MAX_BYTES:
        raise DataError(f"{path}: found {name} {dtype} {shape}, expected grey films, uint8 (n, size, size)")
    return tuple(shape)


def _array(path: str, name: str) -> np.ndarray:
    stat = Path(path).stat()
    return _unpacked(path, name, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=3)
def _unpacked(path: str, name: str, version: tuple[int, int]) -> np.ndarray:
    _shape(Path(path), name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: np.ndarray = archive[name]
            return array
    except UNREADABLE as error:
        raise DataError(f"{path}: {name} cannot be read ({error}); download the archive again") from error
