"""Which films of a listing are used: a split, views, ages, those that can be read; and which findings.

A filter keeps what is known to fit: a film of unknown age does not pass an age limit. What a filter leaves
out is listed by reason in `Listing.left_out`; films of other splits are simply not asked for.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from synthaug.datasets.decode import Progress, in_threads
from synthaug.datasets.formats import read_folder
from synthaug.datasets.formats.listing import AnyFilm, Listing, Options, some_films
from synthaug.datasets.formats.shards import ShardFilms
from synthaug.datasets.formats.values import split_name
from synthaug.datasets.splits import load_split
from synthaug.errors import CorruptShardError, DataError, ImageError, UnknownNameError, nearest
from synthaug.findings import canonical, vector
from synthaug.images import is_colour, read
from synthaug.record import VIEWS, Record

UNREADABLE = "image that cannot be read"
BLANK = "image of a single grey value"
LATERAL = "lateral film (views='lateral' or 'all' reads it)"


def load(
    root: str | Path,
    format: str,
    options: Options,
    *,
    split: str | Iterable[str] | None,
    splits_file: str | Path | None,
    views: str | Sequence[str] | None,
    min_age: float | None,
    max_age: float | None,
    progress: Progress | None,
) -> Listing:
    """Read a folder and keep what is asked for; `options.skip_bad` also leaves out unreadable images.

    Raises:
        DataError: the folder cannot be read so, or no film is left.
        UnknownNameError: an unknown format, view or split file.
    """
    listing = read_folder(root, format, options)
    if splits_file is not None and split is None:
        raise DataError(f"{splits_file}: a split file needs the part to use; give --split NAME (split=NAME)")
    if split is not None:
        parts = None if splits_file is None else load_split(splits_file)
        listing = in_split(listing, split, parts, root)
    listing = fitting(listing, views, min_age, max_age)
    if options.skip_bad:
        listing = readable(listing, progress)
    return replace(listing, films=some_films(listing.films, root, listing.left_out))


def label_columns(findings: str | Sequence[str]) -> tuple[str, ...]:
    """Canonical findings of a label vector, each once, in the order given.

    Raises:
        UnknownNameError: a finding is not known.
        DataError: none is given.
    """
    given = (findings,) if isinstance(findings, str) else findings
    names = tuple(dict.fromkeys(canonical(name) for name in given))
    if not names:
        raise DataError("findings: none given, expected one or more; `synthaug findings` lists them")
    return names


def label_matrix(records: Iterable[Record], findings: Sequence[str]) -> np.ndarray:
    """Labels of many films, (n, f) float32, NaN where unknown; equal labels are worked out once."""
    known: dict[tuple[tuple[str, float], ...], np.ndarray] = {}
    rows = []
    for record in records:
        labels = tuple(record.labels.items())
        if labels not in known:
            known[labels] = vector(record.labels, findings)
        rows.append(known[labels])
    return np.stack(rows) if rows else np.zeros((0, len(findings)), np.float32)


def in_split(
    listing: Listing, split: str | Iterable[str], parts: Mapping[str, Iterable[str]] | None, root: str | Path
) -> Listing:
    """The films of one or several splits.

    Args:
        listing: any.
        split: "train", "validation" (also "val"), "test", or a part of the split file.
        parts: part -> keys of a split file; by default the folder's own splits count.
        root: names the folder in messages.

    Raises:
        DataError: the folder has no splits, or none of that name.
    """
    wanted = {split_name(name) for name in ([split] if isinstance(split, str) else split)}
    part_of = None if parts is None else {key: part for part, keys in parts.items() for key in keys}
    own = [_part(film, part_of) for film in listing.films]
    present = sorted({part for part in own if part})
    if not present:
        source = "the split file names none of its films" if parts is not None else "the folder has no splits"
        raise DataError(f"{root}: {source}; give one with splits_file=NAME_OR_CSV (--splits-file)")
    for name in sorted(wanted - {split_name(part) for part in present}):
        near = nearest(name, present)
        suggestion = f"did you mean {near!r}? " if near else ""
        raise DataError(f"{root}: no split {name!r}; {suggestion}splits are {', '.join(present)}")
    places = [place for place, part in enumerate(own) if part and split_name(part) in wanted]
    return replace(listing, films=_taken(listing.films, places))


def _part(film: AnyFilm, part_of: Mapping[str, str] | None) -> str | None:
    if part_of is None:
        return film.record.provenance.get("split")
    key = film.record.key
    return part_of.get(key) or part_of.get(Path(key).stem)


def fitting(
    listing: Listing,
    views: str | Sequence[str] | None = None,
    min_age: float | None = None,
    max_age: float | None = None,
) -> Listing:
    """The films with one of these views and an age in [min_age, max_age].

    Raises:
        UnknownNameError: an unknown view.
    """
    chosen = (views,) if isinstance(views, str) else views
    for view in chosen or ():
        if view not in VIEWS:
            raise UnknownNameError("view", view, VIEWS)

    def reason(record: Record) -> str | None:
        if chosen is not None and record.view not in chosen:
            return f"view other than {', '.join(chosen)}"
        if (min_age is not None or max_age is not None) and record.age is None:
            return "unknown age"
        if min_age is not None and record.age is not None and record.age < min_age:
            return f"younger than {min_age:g}"
        if max_age is not None and record.age is not None and record.age > max_age:
            return f"older than {max_age:g}"
        return None

    if chosen is None and min_age is None and max_age is None:
        return listing
    return _without(listing, lambda film: reason(film.record))


def frontal(listing: Listing) -> Listing:
    """The films that are not known to be lateral.

    Raises:
        DataError: every film is.
    """
    kept = _without(listing, lambda film: LATERAL if film.record.view == "lateral" else None)
    if listing.films and not kept.films:
        raise DataError("every film is a lateral one; views='lateral' (--view lateral) reads them")
    return kept


def readable(listing: Listing, progress: Progress | None = None) -> Listing:
    """The films whose image can be decoded and shows something; every one is decoded once to know."""
    seen = inspect_images(listing.films, progress)
    blank = set(seen.blank)

    def reason(film: AnyFilm) -> str | None:
        return UNREADABLE if film.name in seen.unreadable else BLANK if film.name in blank else None

    return _without(listing, reason)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What decoding every film has shown.

    Args:
        unreadable: film's name -> why it cannot be decoded.
        blank: names of films of a single grey value.
        colour: names of images whose channels differ: photographs, not films.
        shapes: (height, width) -> how many films, the most frequent first.
    """

    unreadable: Mapping[str, str]
    blank: Sequence[str]
    colour: Sequence[str]
    shapes: Mapping[tuple[int, int], int]


def inspect_images(films: Sequence[AnyFilm], progress: Progress | None = None) -> Inspection:
    """Decode every film once."""
    shapes: list[tuple[int, int] | None] = [None] * len(films)
    reasons, blank, colour = [""] * len(films), [False] * len(films), [False] * len(films)

    def decode(number: int) -> None:
        try:
            source = films[number].source()
            image = read(source)
            shapes[number] = image.shape[0], image.shape[1]
            blank[number] = bool(image.min() == image.max())
            colour[number] = is_colour(source)
        except (ImageError, CorruptShardError) as error:
            reasons[number] = str(error)

    in_threads(decode, len(films), progress)
    return Inspection(
        {film.name: reason for film, reason in zip(films, reasons, strict=True) if reason},
        [film.name for film, is_blank in zip(films, blank, strict=True) if is_blank],
        [film.name for film, is_one in zip(films, colour, strict=True) if is_one],
        dict(Counter(shape for shape in shapes if shape is not None).most_common()),
    )


def _without(listing: Listing, reason: Callable[[AnyFilm], str | None]) -> Listing:
    kept: list[int] = []
    dropped: dict[str, list[str]] = {}
    for place, film in enumerate(listing.films):
        why = reason(film)
        if why is None:
            kept.append(place)
        else:
            dropped.setdefault(why, []).append(film.record.key)
    if not dropped:
        return listing
    left_out = {why: tuple(keys) for why, keys in listing.left_out.items()}
    for why, keys in dropped.items():
        left_out[why] = (*left_out.get(why, ()), *keys)
    return replace(listing, films=_taken(listing.films, kept), left_out=left_out)


def _taken(films: Sequence[AnyFilm], places: Sequence[int]) -> Sequence[AnyFilm]:
    return films.take(places) if isinstance(films, ShardFilms) else tuple(films[place] for place in places)
