"""Films out of shards (or any layout) into other ecosystems: `export(films, out, "hf")`.

| target | what opens it |
|---|---|
| csv | any program: `labels.csv` and `images/*.png` |
| imagefolder | `torchvision.datasets.ImageFolder` (a folder a combination of findings), Hugging Face's `imagefolder` |
| parquet | pandas, Polars, DuckDB: images and labels in one table |
| hf | `datasets.load_dataset(OUT)`: Parquet by split, with declared features |
| torchxrayvision | `xrv.datasets.CheX_Dataset(imgpath=OUT, csvpath=OUT/train.csv)` |
| dicom | a PACS or viewer: Secondary Capture, synthetic films only |

Pixels and labels come back equal when `RealRadiographs` or `SyntheticRadiographs` opens OUT. Every file is whole
or absent, `export.json` is written first and the table of labels last; the same call goes on where a killed one
stopped. PNG files of synthetic films carry IPTC's digital source type "trainedAlgorithmicMedia".
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthaug.datasets.base import Radiographs
from synthaug.datasets.export import dicom, parquet, tables
from synthaug.datasets.packing import begin, digest
from synthaug.errors import DataError, OutputFolderError, UnknownNameError
from synthaug.shards import local_path, open_storage

PLAN = "export.json"
SCHEMA = 1

Progress = Callable[[int, int], None]

TARGETS: dict[str, Callable[[Radiographs, Path, Progress], None]] = {
    "imagefolder": tables.imagefolder,
    "csv": tables.csv,
    "parquet": parquet.parquet,
    "hf": parquet.hf,
    "dicom": dicom.dicom,
    "torchxrayvision": tables.torchxrayvision,
}


def export(films: Radiographs, out: str | Path, to: str, progress: Progress | None = None) -> Path:
    """Write a data set in another ecosystem's layout.

    Args:
        films: the data set; its label columns are what is exported.
        out: the folder, made if absent.
        to: a name of `TARGETS`.
        progress: called with (films done, films in all).

    Returns:
        The folder.

    Raises:
        UnknownNameError: another target.
        DataError: no film, or films that the target cannot take.
        ImageError: a film that cannot be read.
        NotInstalledError: a package that the target needs.
        OutputFolderError, DiskFullError: the folder is taken, in use, or full.
    """
    if to not in TARGETS:
        raise UnknownNameError("target", to, TARGETS)
    storage, folder = open_storage(out), local_path(out)
    if folder is None:
        raise OutputFolderError(
            f"{out}: films are exported to a folder of this machine; copy that where they belong"
        )
    if not len(films):
        raise DataError(f"{out}: no film to export")
    with storage.lock():
        plan: dict[str, Any] = {
            "schema": SCHEMA,
            "to": to,
            "films": len(films),
            "findings": list(films.findings),
            "digest": digest(films.films),
        }
        begin(storage, plan, PLAN)
        TARGETS[to](films, folder, progress or _silent)
    return folder


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
