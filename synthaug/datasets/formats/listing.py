"""What a reader of a public layout hands back: films (a path and a record each), and what it left out.

Nothing here decodes an image or imports torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from synthaug.errors import DataError, UnknownNameError
from synthaug.findings import FINDINGS
from synthaug.record import Record

ROW_WITHOUT_IMAGE = "label row without an image"
IMAGE_WITHOUT_ROW = "image without a label row"
BAD_ROW = "label row that cannot be read"


class AnyFilm(Protocol):
    """A radiograph on storage, wherever it lies: its path, or the URL of its folder of shards."""

    @property
    def path(self) -> Path | str: ...

    @property
    def record(self) -> Record: ...

    @property
    def name(self) -> str: ...

    def source(self) -> Path | bytes: ...


@dataclass(frozen=True, slots=True)
class Film:
    """One radiograph on storage: where its pixels are, and its record."""

    path: Path
    record: Record

    @property
    def name(self) -> str:
        """What a message calls this film."""
        return str(self.path)

    def source(self) -> Path | bytes:
        """What `synthaug.images.read` decodes."""
        return self.path


@dataclass(frozen=True, slots=True)
class Options:
    """How to read a folder; each layout takes what it knows.

    Args:
        labels_csv: the table of labels, relative to the folder or absolute; guessed when it is the only one.
        columns: role -> column of the table. Roles: image, findings, patient, age, sex, view, split, or a
            finding whose column holds 1, 0, -1 (uncertain: unknown) or nothing (unknown).
        names: name in the data -> finding, for folders or labels with a name of their own; None leaves the
            folder or label out.
        unlisted: what a finding is that the findings column does not list: "unknown" (NaN) or "absent" (0).
        uncertain: what CheXpert's -1 becomes: "unknown" (NaN), "zeros" or "ones".
        readers: how the readers of VinDr-CXR are merged: "majority", "any" of them, or "all".
        skip_bad: leave out rows that cannot be read (they are counted) instead of raising.
    """

    labels_csv: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str | None] = field(default_factory=dict)
    unlisted: Literal["unknown", "absent"] = "unknown"
    skip_bad: bool = False
    uncertain: Literal["unknown", "zeros", "ones"] = "unknown"
    readers: Literal["majority", "any", "all"] = "majority"

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UnknownNameError(name, str(getattr(self, name)), known)


_CHOICES = {
    "unlisted": ("unknown", "absent"),
    "uncertain": ("unknown", "zeros", "ones"),
    "readers": ("majority", "any", "all"),
}


@dataclass(frozen=True, slots=True)
class Listing:
    """The films of a folder.

    Args:
        format: the layout's name.
        films: in a fixed order.
        findings: those that the layout's labels speak of, in the vocabulary's order.
        left_out: reason -> keys of what is not among the films, and why.
        reading: how the folder was understood, for the reader's eyes: {"image column": "Path", ...}.
    """

    format: str
    films: Sequence[AnyFilm]
    findings: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reading: Mapping[str, str] = field(default_factory=dict)


def ordered(findings: Iterable[str]) -> tuple[str, ...]:
    """Canonical findings, each once, in the vocabulary's order."""
    chosen = set(findings)
    return tuple(finding for finding in FINDINGS if finding in chosen)


def left_out(reasons: Iterable[tuple[str, Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """`Listing.left_out` without the reasons that leave nothing out."""
    return {reason: tuple(keys) for reason, keys in reasons if keys}


Films = TypeVar("Films", bound=Sequence[AnyFilm])


def some_films(films: Films, root: str | Path, reasons: Mapping[str, Sequence[str]]) -> Films:
    """The films, once it is sure that there is one.

    Raises:
        DataError: none is left; the message says what was left out.
    """
    if len(films):
        return films
    told = "; ".join(f"{len(keys)} x {reason}" for reason, keys in reasons.items()) or "no image found"
    raise DataError(f"{root}: no film is left ({told}); `synthaug data {root}` shows what the folder holds")
