"""Real radiographs from a folder in any known public layout."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from synthaug.datasets.base import Radiographs
from synthaug.datasets.decode import Progress
from synthaug.datasets.formats import Options
from synthaug.datasets.formats.listing import Listing
from synthaug.datasets.formats.shards import ShardFilms, checked
from synthaug.datasets.selection import frontal, load


class RealRadiographs(Radiographs):
    """Real radiographs: `RealRadiographs("nih-sample")[0]` is (PIL "L" image, float32 label vector).

    Args:
        root: the folder; by URL (s3://, gs://, https://, ...) a folder of shards, as `synthaug pack` writes them.
        format: a name of `synthaug.datasets.FORMATS`, or "auto" to recognise it (see `repr`).
        findings: columns of the labels, by any alias; by default those that the folder's labels speak of.
        split: one or several splits: "train", "validation", "test" of class folders, a table or NIH's lists,
            or parts of `splits_file`.
        transform: of the PIL "L" image.
        target_transform: of the float32 label vector.
        image_size: resize to a square of this many pixels; as stored when None.
        fit: how: "crop", "pad" or "squash".
        views: only these: "PA", "AP", "lateral"; None keeps out the films that are known to be lateral, "all"
            keeps everything.
        min_age: only patients known to be this old; 18 keeps children out.
        max_age: only patients known to be no older.
        skip_bad: leave out images and label rows that cannot be read (all images are decoded once to know);
            `left_out` names them. Otherwise the first one raises when it is met.
        splits_file: a split file, by name ("nih-sample") or path.
        labels_csv: the table of labels.
        columns: role or finding -> column of that table (see `synthaug.datasets.formats.Options`).
        names: name in the data -> finding, or None to leave its films out.
        unlisted: what the findings are that a findings column does not list: "unknown" or "absent".
        uncertain: what the -1 of CheXpert and MIMIC-CXR becomes: "unknown" (NaN), "zeros" or "ones".
        readers: how the readers of VinDr-CXR are merged: "majority", "any" of them or "all".
        progress: called with (films done, films in all) while `skip_bad` decodes.

    Raises:
        DataError: no such folder or layout, a missing column, a line that cannot be read, no film left.
        UnknownNameError: an unknown finding, format, view or split file.
    """

    def __init__(
        self,
        root: str | Path,
        format: str = "auto",
        findings: str | Sequence[str] | None = None,
        split: str | Iterable[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        image_size: int | None = None,
        fit: str = "crop",
        views: str | Sequence[str] | None = None,
        min_age: float | None = None,
        max_age: float | None = None,
        skip_bad: bool = False,
        splits_file: str | Path | None = None,
        labels_csv: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        names: Mapping[str, str | None] | None = None,
        unlisted: Literal["unknown", "absent"] = "unknown",
        uncertain: Literal["unknown", "zeros", "ones"] = "unknown",
        readers: Literal["majority", "any", "all"] = "majority",
        progress: Progress | None = None,
    ) -> None:
        listing = load(
            root,
            format,
            Options(labels_csv, columns or {}, names or {}, unlisted, skip_bad, uncertain, readers),
            split=split,
            splits_file=splits_file,
            views=None if views == "all" else views,
            min_age=min_age,
            max_age=max_age,
            progress=progress,
        )
        listing = _real(frontal(listing) if views is None else listing, root)
        super().__init__(root, listing, findings, transform, target_transform, image_size, fit)


def _real(listing: Listing, root: str | Path) -> Listing:
    if isinstance(listing.films, ShardFilms):
        films = listing.films.promised(synthetic=False)
        for film in (films[0], films[-1]):  # the others are looked at when they are read
            checked(film.record, root, False)
        return replace(listing, films=films)
    for film in listing.films:
        checked(film.record, root, False)
    return listing
