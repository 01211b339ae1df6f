"""A table's lines joined with the images of a folder: what every layout with a table does.

A line names its image and knows how to make its record. Lines without an image, images without a line and
lines that cannot be read are counted, never silent; a table that fits no image at all is an error.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from synthaug.datasets.formats import dicom_header, files, listing
from synthaug.datasets.formats.listing import Film, Options
from synthaug.datasets.formats.matching import ImageIndex
from synthaug.errors import DataError, LabelError, UnknownNameError
from synthaug.record import Record


@dataclass(frozen=True, slots=True)
class Line:
    """One film's line.

    Args:
        place: names the line in a message: "train.csv line 7".
        image: what the table calls the image.
        record: the record of the film, given its key.
        leave_out: a reason to leave the film out, or None.
    """

    place: str
    image: str
    record: Callable[[str], Record]
    leave_out: str | None = None


def join(
    root: Path, lines: Iterable[Line], options: Options, images: Sequence[Path] | None = None
) -> tuple[tuple[Film, ...], dict[str, tuple[str, ...]]]:
    """The films of a table's lines, in their order, and what was left out.

    What a line does not say of age, sex, view and patient is taken from the header of a DICOM file.

    Args:
        root: the folder.
        lines: the table.
        options: of which `skip_bad` counts.
        images: of the folder; found when None.

    Raises:
        DataError: a line that cannot be read (without `skip_bad`), a film with two lines, or no film left.
    """
    paths = files.find_images(root) if images is None else images
    lines = list(lines)
    index = ImageIndex(root, paths, [line.image for line in lines])
    keys = dict(zip(paths, files.keys_of(root, paths), strict=True))
    films: dict[Path, Film] = {}
    without_image: list[str] = []
    dropped: dict[str, list[str]] = {}
    seen: set[Path] = set()
    for line in lines:
        path = index.match(line.image)
        if path is None:
            without_image.append(line.image)
            continue
        try:
            if path in seen:
                raise DataError(f"{path.name} has a line already; expected one line a film")
            seen.add(path)
            if line.leave_out is not None:
                dropped.setdefault(line.leave_out, []).append(keys[path])
                continue
            films[path] = Film(path, _completed(line.record(keys[path]), path))
        except (DataError, LabelError, UnknownNameError, KeyError, ValueError) as error:
            if not options.skip_bad:
                raise DataError(f"{line.place}: {error}; --skip-bad leaves such lines out") from error
            dropped.setdefault(listing.BAD_ROW, []).append(keys[path])
    if without_image and not seen:
        _none_fits(root, without_image, paths)
    unlabelled = [keys[path] for path in paths if path not in seen]
    left_out = listing.left_out(
        [
            (listing.ROW_WITHOUT_IMAGE, without_image),
            (listing.IMAGE_WITHOUT_ROW, unlabelled),
            *dropped.items(),
        ]
    )
    return listing.some_films(tuple(films.values()), root, left_out), left_out


def labels_of(record: Mapping[str, float], findings: Iterable[str]) -> dict[str, float]:
    """These labels, with 0 for every one of `findings` that they do not name."""
    return {**dict.fromkeys(findings, 0.0), **record}


def _completed(record: Record, path: Path) -> Record:
    if path.suffix.lower() not in files.DICOM_SUFFIXES:
        return record
    told = dicom_header.facts(path)
    given = {name: value for name, value in told.items() if getattr(record, name) is None}
    return replace(record, **given) if given else record


def _none_fits(root: Path, named: Sequence[str], paths: Sequence[Path]) -> None:
    here = f"the images here are called like {paths[0].name}" if paths else "there is no image here"
    raise DataError(
        f"{root}: the table names {len(named)} images such as {named[0]} and none of them is in the folder "
        f"({here}); is it the table of another data set, or are the images still to be downloaded?"
    )
