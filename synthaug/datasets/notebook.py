"""A picture grid for notebooks: a line about the data set, then a few of its films with their labels."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from synthaug.errors import SynthaugError
from synthaug.findings import NO_FINDING, title
from synthaug.images import encode, resize
from synthaug.record import Record

THUMBNAIL = 128


class Shown(Protocol):
    """What is shown: a data set."""

    @property
    def records(self) -> Sequence[Record]: ...

    @property
    def left_out(self) -> Mapping[str, Sequence[str]]: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray: ...


def picture_grid(films: Shown, count: int = 8) -> str:
    """HTML of up to `count` films, evenly spread over the data set; whatever comes from the data is escaped.

    An image that cannot be read shows the reason in its place.
    """
    records = films.records
    chosen = np.unique(np.linspace(0, len(films) - 1, min(count, len(films))).round().astype(int))
    cells = "".join(_cell(films, int(i), records[i]) for i in chosen)
    grid = f"<div style='display:flex;flex-wrap:wrap;gap:6px'>{cells}</div>"
    return f"<div><p>{html.escape(headline(films))}</p>{grid}</div>"


def headline(films: Shown) -> str:
    """ "RealRadiographs: 3,347 films of 2,181 patients", and what was left out."""
    patients = {record.patient for record in films.records if record.patient is not None}
    text = f"{type(films).__name__}: {len(films):,} films"
    if patients:
        text += f" of {len(patients):,} patients"
    return text + "".join(f"; left out: {len(keys):,} x {reason}" for reason, keys in films.left_out.items())


def caption(record: Record) -> str:
    """The findings that are 1, or those that are 0, in words."""
    present = [title(finding) for finding, value in record.labels.items() if value == 1.0]
    absent = [
        f"no {title(finding)}"
        for finding, value in record.labels.items()
        if value == 0.0 and finding != NO_FINDING
    ]
    return ", ".join(present or absent or ["labels unknown"])


def _cell(films: Shown, index: int, record: Record) -> str:
    label = html.escape(f"{record.key}: {caption(record)}", quote=True)
    try:
        data = base64.b64encode(encode(resize(films.image(index), THUMBNAIL, "pad"))).decode()
        picture = (
            f"<img src='data:image/png;base64,{data}' width='{THUMBNAIL}' height='{THUMBNAIL}' alt='{label}'>"
        )
    except SynthaugError as error:
        picture = f"<em>{html.escape(str(error))}</em>"
    style = f"margin:0;width:{THUMBNAIL}px;font-size:11px;overflow-wrap:anywhere"
    return f"<figure style='{style}'>{picture}<figcaption>{label}</figcaption></figure>"
