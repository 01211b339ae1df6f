"""What every target says of a film: a plain file name, a PNG, and the cells of a table."""

import math
import re
from pathlib import Path
from typing import Any

from synthaug.datasets.base import Radiographs
from synthaug.datasets.packing import Packing, sample
from synthaug.errors import OutputFolderError
from synthaug.images import encode, mark_png, read
from synthaug.images.writing import SIGNATURE
from synthaug.shards import atomic_write

FACTS = ("key", "patient", "age", "sex", "view", "split", "prompt", "synthetic")

_PLAIN = re.compile(r"[\w-]{1,100}", re.ASCII)


def stems(films: Radiographs) -> list[str]:
    """The file name of every film, without suffix: its key, or its number where a key cannot name a file."""
    keys = films.keys
    plain = len(set(keys)) == len(keys) and all(_PLAIN.fullmatch(key) for key in keys)
    return list(keys) if plain else [f"{place:09d}" for place in range(len(keys))]


def png(films: Radiographs, place: int) -> bytes:
    """A film as 8-bit grey PNG, marked when it is synthetic.

    Raises:
        ImageError: it cannot be read; the message names it.
    """
    record, data, _ = sample(films.films[place], "0", Packing(image_size=films.image_size, fit=films.fit))
    if not data.startswith(SIGNATURE):
        data = encode(read(data))
    return mark_png(data) if record.synthetic else data


def facts(films: Radiographs, place: int) -> dict[str, Any]:
    """Key, patient, age, sex, view, split, prompt, synthetic of a film; None where unknown."""
    record = films.records[place]
    known = {name: getattr(record, name) for name in FACTS if name != "split"}
    return {name: known.get(name, record.provenance.get("split")) for name in FACTS}


def labels(films: Radiographs, place: int) -> dict[str, int | None]:
    """1, 0 or None of each of the data set's findings."""
    values = zip(films.findings, films.labels[place].tolist(), strict=True)
    return {finding: None if math.isnan(value) else int(value) for finding, value in values}


def cell(value: Any) -> str:
    """A value as CSV text: "" for None, whole numbers without a point."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def put(path: Path, data: bytes) -> None:
    """Write a file that is not there yet; what an interrupted run left whole is kept.

    Raises:
        DiskFullError, OutputFolderError: it cannot be written.
    """
    if path.is_file():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFolderError(f"{path.parent}: cannot be made ({error.strerror or error})") from error
    atomic_write(path, data)
