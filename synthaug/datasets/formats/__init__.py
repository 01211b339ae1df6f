"""Public layouts of radiographs, one a file: each has `SIGN`, `detect(root)` and `read(root, options)`.

`SIGN` is what the layout is known by, `detect` gives an explanation or None; `read_folder` picks the first
layout that explains the folder, and `explain` says why.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from synthaug.datasets.formats import (
    chexpert,
    chexpert_plus,
    class_folders,
    covid,
    csv_table,
    dicom_folder,
    hf_folder,
    medmnist,
    mimic,
    nih,
    openi,
    padchest,
    parquet,
    rsna,
    shards,
    siim,
    vindr,
)
from synthaug.datasets.formats.files import (
    ARCHIVES,
    WORKBOOKS,
    existing_folder,
    find_images,
    unfinished,
)
from synthaug.datasets.formats.listing import Film, Listing, Options
from synthaug.errors import DataError, UnknownNameError
from synthaug.shards import local_path

__all__ = ["FORMATS", "Film", "Layout", "Listing", "Options", "detect", "explain", "read_folder"]


class Layout(NamedTuple):
    """What a layout is known by, why a folder has it (or None), and its films."""

    sign: str
    detect: Callable[[Path], str | None]
    read: Callable[[Path, Options | None], Listing]


# In the order of trial: the surest sign first.
FORMATS: dict[str, Layout] = {
    name: Layout(module.SIGN, module.detect, module.read)
    for name, module in {
        "shards": shards,
        "nih": nih,
        "chexpert_plus": chexpert_plus,
        "mimic": mimic,
        "padchest": padchest,
        "vindr": vindr,
        "rsna": rsna,
        "siim": siim,
        "openi": openi,
        "chexpert": chexpert,
        "covid": covid,
        "medmnist": medmnist,
        "hf_folder": hf_folder,
        "parquet": parquet,
        "class_folders": class_folders,
        "csv": csv_table,
        "dicom": dicom_folder,
    }.items()
}


def detect(root: str | Path) -> tuple[str, str] | None:
    """The first layout that explains a folder, and its explanation; None when no layout does.

    Raises:
        DataError: no such folder.
    """
    if local_path(root) is None:
        return "shards", f"a URL: {shards.MANIFEST}"
    folder = existing_folder(root)
    for name, layout in FORMATS.items():
        if (explanation := layout.detect(folder)) is not None:
            return name, explanation
    return None


def explain(root: str | Path, format: str) -> str:
    """Why a folder is read as `format`: what was seen, and which layouts were tried before.

    Raises:
        DataError: no such folder.
    """
    found = detect(root)
    if found is None or found[0] != format:
        return f"read as {format}, as asked"
    before = ", ".join(list(FORMATS)[: list(FORMATS).index(format)])
    return found[1] + (f"; no sign of {before}" if before else "")


def read_folder(root: str | Path, format: str = "auto", options: Options | None = None) -> Listing:
    """The films of a folder in any known layout; no image is decoded.

    Args:
        root: the folder; by URL only one of shards.
        format: a name of `FORMATS`, or "auto".
        options: how to read it; a table or columns make "auto" mean "csv".

    Raises:
        UnknownNameError: another format.
        DataError: no such folder, or no layout explains it; and what the layout's own `read` raises.
    """
    options = options or Options()
    if local_path(root) is None and format in ("auto", "shards"):
        return shards.read(str(root), options)
    folder = existing_folder(root)
    if format == "auto":
        if options.labels_csv is not None or options.columns:
            format = "csv"
        else:
            found = detect(folder)
            format = found[0] if found else _fallback(folder, options)
    if format not in FORMATS:
        raise UnknownNameError("format", format, ("auto", *FORMATS))
    if format != "csv" and (options.labels_csv is not None or options.columns):
        raise DataError(f"{folder}: --labels-csv and --column go with --format csv, found --format {format}")
    return FORMATS[format].read(folder, options)


def _fallback(folder: Path, options: Options) -> str:
    """The layout whose own `read` says best what is missing; a folder without images has none."""
    images, tables = find_images(folder), sorted(folder.glob("*.csv"))
    if images and tables:
        return "csv"
    if images and any(path.parent != folder for path in images):
        return "class_folders"
    if books := [path.name for path in folder.iterdir() if path.suffix.lower() in WORKBOOKS]:
        raise DataError(
            f"{folder / books[0]}: an Excel workbook, expected a CSV table; save it as CSV (UTF-8) beside it"
        )
    if zips := [path.name for path in folder.iterdir() if path.name.lower().endswith(ARCHIVES)]:
        raise DataError(
            f"{folder / zips[0]}: an archive, and {len(images)} images outside it; unpack it into {folder} first"
        )
    if begun := [path.name for path in unfinished(folder)]:
        raise DataError(
            f"{folder}: {len(begun)} unfinished downloads such as {begun[0]}; let the download end first"
        )
    signs = "; ".join(f"{layout.sign} ({name})" for name, layout in FORMATS.items())
    raise DataError(
        f"{folder}: found {len(images)} images and {len(tables)} CSV files, expected one of: {signs}"
    )
