"""Synthetic radiographs: what `synthaug generate` wrote, or another generator's images in a public layout."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthaug.datasets.base import Radiographs
from synthaug.datasets.decode import Progress
from synthaug.datasets.formats import Options
from synthaug.datasets.formats.listing import Film, Listing
from synthaug.datasets.formats.shards import ShardFilms, checked
from synthaug.datasets.selection import load


class SyntheticRadiographs(Radiographs):
    """Synthetic radiographs, with random access.

    Each film's record holds its prompt, seed and checkpoint: `films.records[0].prompt`. Images of another
    generator, in any layout that `RealRadiographs` reads, count as synthetic because this class was asked.

    Args:
        root: the folder; by URL (s3://, gs://, https://, ...) a folder of shards.
        findings: columns of the labels, by any alias; by default those that the records name.
        transform: of the PIL "L" image.
        target_transform: of the float32 label vector.
        format, split, image_size, fit, views, skip_bad, labels_csv, columns, names, progress: as in
            `RealRadiographs`.

    Raises:
        DataError: no such folder or layout, no film left, or shards that hold real films.
        CorruptShardError: a damaged manifest, index or record.
        UnknownNameError: an unknown finding, format or view.
    """

    def __init__(
        self,
        root: str | Path,
        findings: str | Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        format: str = "auto",
        split: str | Iterable[str] | None = None,
        image_size: int | None = None,
        fit: str = "crop",
        views: str | Sequence[str] | None = None,
        skip_bad: bool = False,
        labels_csv: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        names: Mapping[str, str | None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        listing = load(
            root,
            format,
            Options(labels_csv, columns or {}, names or {}, skip_bad=skip_bad),
            split=split,
            splits_file=None,
            views=views,
            min_age=None,
            max_age=None,
            progress=progress,
        )
        super().__init__(root, _marked(listing, root), findings, transform, target_transform, image_size, fit)


def _marked(listing: Listing, root: str | Path) -> Listing:
    if isinstance(listing.films, ShardFilms):
        films = listing.films.promised(synthetic=True)
        for film in (films[0], films[-1]):  # the others are looked at when they are read
            checked(film.record, root, True)
        return replace(listing, films=films)
    films_of_others = [film for film in listing.films if isinstance(film, Film)]
    marked = tuple(replace(film, record=replace(film.record, synthetic=True)) for film in films_of_others)
    return replace(listing, films=marked)
