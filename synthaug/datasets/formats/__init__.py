"""Public layouts of radiographs, one a file: each has `detect(root)` and `read(root, options)`.

`detect` gives an explanation or None; `read_folder` picks the first layout that explains the folder.
"""

from collections.abc import Callable
from pathlib import Path

from synthaug.datasets.formats import class_folders, csv_table, nih, shards
from synthaug.datasets.formats.files import existing_folder, find_images
from synthaug.datasets.formats.listing import Film, Listing, Options
from synthaug.errors import DataError, UnknownNameError

__all__ = ["FORMATS", "Film", "Listing", "Options", "detect", "read_folder"]

# In the order of trial: the surest sign first.
FORMATS: dict[str, tuple[Callable[[Path], str | None], Callable[[Path, Options | None], Listing]]] = {
    "shards": (shards.detect, shards.read),
    "nih": (nih.detect, nih.read),
    "class_folders": (class_folders.detect, class_folders.read),
    "csv": (csv_table.detect, csv_table.read),
}


def detect(root: str | Path) -> tuple[str, str] | None:
    """The first layout that explains a folder, and its explanation; None when no layout does.

    Raises:
        DataError: no such folder.
    """
    folder = existing_folder(root)
    for name, (explain, _) in FORMATS.items():
        if (explanation := explain(folder)) is not None:
            return name, explanation
    return None


def read_folder(root: str | Path, format: str = "auto", options: Options | None = None) -> Listing:
    """The films of a folder in any known layout; no image is decoded.

    Args:
        root: the folder.
        format: a name of `FORMATS`, or "auto".
        options: how to read it; a table or columns make "auto" mean "csv".

    Raises:
        UnknownNameError: another format.
        DataError: no such folder, or no layout explains it; and what the layout's own `read` raises.
    """
    folder, options = existing_folder(root), options or Options()
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
    return FORMATS[format][1](folder, options)


def _fallback(folder: Path, options: Options) -> str:
    """The layout whose own `read` says best what is missing; a folder without images has none."""
    images, tables = find_images(folder), sorted(folder.glob("*.csv"))
    if images and tables:
        return "csv"
    if images and any(path.parent != folder for path in images):
        return "class_folders"
    raise DataError(
        f"{folder}: found {len(images)} images and {len(tables)} CSV files, expected one of: manifest.json "
        "(shards); Data_Entry_2017*.csv (NIH ChestX-ray14); folders that name findings; a CSV and images"
    )
