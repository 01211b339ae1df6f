"""The films that the flags of a command name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synthaug.datasets.base import Radiographs


def open_films(
    folders: Sequence[str | Path], split: str | None, splits_file: str, skip_bad: bool
) -> "list[Radiographs]":
    """The data set of each folder, cut down to one part of a split where a part is asked for."""
    from synthaug.datasets import open_radiographs
    from synthaug.datasets.splits import part_of

    opened: list[Radiographs] = [open_radiographs(folder, skip_bad=skip_bad) for folder in folders]
    return [part_of(films, split, splits_file) for films in opened] if split else opened
