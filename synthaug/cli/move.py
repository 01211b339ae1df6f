"""Commands that write films elsewhere: `pack`, `export`, `merge`, `split`, `dedupe`."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from synthaug.cli import flags, terminal
from synthaug.cli.reading import Reading, reading_options
from synthaug.cli.terminal import say

if TYPE_CHECKING:
    from synthaug.datasets.base import Radiographs
    from synthaug.datasets.formats import Listing

Folder = Annotated[
    str,
    Parameter(help="Folder of films in any layout that `synthaug data` knows, or URL of a folder of shards."),
]
Out = Annotated[str, Parameter(help="Output folder, or its URL in an object store (docs/storage.md).")]
Format = Annotated[str, Parameter(help='The layout, where "auto" does not recognise it (docs/datasets.md).')]
Processes = Annotated[int, Parameter(help="Shards written at the same time.")]
Kept = Annotated[
    Literal["keep", "png", "jpeg", "webp"],
    Parameter(help="keep copies grey 8-bit files as they are and turns all else into PNG."),
]
Fit = Annotated[
    Literal["crop", "pad", "squash"], Parameter(help="How a film becomes a square of --image-size.")
]


def pack(
    folder: Folder,
    /,
    *,
    out: Out,
    format: Format = "auto",
    reading: Reading = None,
    shard_size: flags.ShardSize = 1000,
    image_format: Kept = "keep",
    image_size: Annotated[int | None, Parameter(help="Edge in pixels; as stored when left out.")] = None,
    fit: Fit = "crop",
    processes: Processes = 1,
    skip_bad: flags.SkipBad = False,
) -> None:
    """Pack real or synthetic films of any layout into WebDataset shards; the same command resumes."""
    from synthaug.datasets.packing import Packing
    from synthaug.datasets.packing import pack as run

    listing = _listing(folder, format, reading, skip_bad)
    packing = Packing(shard_size, image_format, image_size, fit, skip_bad)
    with terminal.bar("pack") as advance:
        manifest = run(listing.films, out, packing, processes, advance, source_format=listing.format)
    _done(out, manifest.count, manifest.facts["left_out"])


def merge(
    folders: Annotated[
        list[str], Parameter(help="Folders of films in any layout, or URLs of folders of shards.")
    ],
    /,
    *,
    out: Out,
    patients: Literal["refuse", "same", "apart"] = "refuse",
    shard_size: flags.ShardSize = 1000,
    processes: Processes = 1,
    skip_bad: flags.SkipBad = False,
) -> None:
    """Merge folders of films into one folder of shards; the same command resumes.

    Parameters
    ----------
    patients
        What a patient id that stands in two folders means: same patient, two patients kept apart, or a mistake.
    """
    from synthaug.datasets.packing import Packing
    from synthaug.datasets.shaping import merge as run

    films = {folder: _listing(folder, "auto", None, skip_bad).films for folder in folders}
    with terminal.bar("merge") as advance:
        manifest = run(films, out, patients, Packing(shard_size, skip_bad=skip_bad), processes, advance)
    _done(out, manifest.count, manifest.facts["left_out"])


def export(
    folder: Folder,
    /,
    *,
    to: Literal["imagefolder", "csv", "parquet", "hf", "dicom", "torchxrayvision"],
    out: str,
    format: Format = "auto",
    reading: Reading = None,
    finding: flags.Findings = None,
    skip_bad: flags.SkipBad = False,
) -> None:
    """Write films in the layout of another ecosystem; the same command resumes.

    Parameters
    ----------
    to
        What is to open them.
    out
        Output folder, on this machine.
    """
    from synthaug.datasets.export import export as run

    films = _films(folder, format, reading, skip_bad)
    with terminal.bar("export") as advance:
        run(films.relabel(finding) if finding else films, out, to, advance)
    say(f"{out}: {len(films)} films, {to}; `synthaug data {out}` reads them back")


def split(
    folder: Folder,
    /,
    *,
    part: Annotated[list[str], flags.Many, Parameter(help="NAME=SHARE of the patients: train=0.8.")],
    out: str,
    seed: Annotated[int, Parameter(help="Another seed, another split.")] = 0,
    by_film: Annotated[
        bool, flags.Switch, Parameter(help="Take films of unknown patient one by one.")
    ] = False,
    format: Format = "auto",
    reading: Reading = None,
    shard_size: flags.ShardSize = 1000,
    processes: Processes = 1,
    skip_bad: flags.SkipBad = False,
) -> None:
    """Split films by patient: into a split file, or into one folder of shards a part.

    Parameters
    ----------
    out
        NAME.csv for a split file (`--splits-file` takes it), else a folder of folders, or its URL.
    """
    from synthaug.datasets.packing import Packing
    from synthaug.datasets.packing import pack as run
    from synthaug.datasets.splits import split_patients, write_split
    from synthaug.shards import open_storage

    films = _films(folder, format, reading, skip_bad)
    parts = split_patients(films, _shares(part), seed, by_film)
    if out.lower().endswith(".csv"):
        write_split(out, films, parts)
    else:
        for name, indices in parts.items():
            with terminal.bar(name) as advance:
                run(
                    films.subset(indices).films,
                    open_storage(out).where(name),
                    Packing(shard_size, skip_bad=skip_bad),
                    processes,
                    advance,
                )
    told = ", ".join(f"{name} {len(indices)}" for name, indices in parts.items())
    say(f"{out}: {told} films")


def dedupe(
    folder: Folder,
    /,
    *,
    against: str | None = None,
    out: str | None = None,
    correlation: Annotated[float, Parameter(help="Least likeness of a near-duplicate, 0 to 1.")] = 0.9,
    format: Format = "auto",
    reading: Reading = None,
    shard_size: flags.ShardSize = 1000,
    processes: Processes = 1,
    skip_bad: flags.SkipBad = False,
    as_json: flags.Json = False,
) -> None:
    """Name near-duplicate films, within a folder or against another; --out writes the folder without them.

    Parameters
    ----------
    against
        Films that must not come again: a training set, or a generator's films.
    out
        Output folder of shards, or its URL; nothing is written when left out.
    """
    from synthaug.datasets.likeness import near_pairs, prints_of
    from synthaug.datasets.packing import Packing
    from synthaug.datasets.packing import pack as run
    from synthaug.datasets.shaping import duplicates

    films = _listing(folder, format, reading, skip_bad).films
    keys = [film.record.key for film in films]
    with terminal.bar("compare") as advance:
        if against is None:
            found = duplicates(films, correlation, advance)
            told = [[keys[place] for place in group] for group in found]
            dropped = {place for group in found for place in group[1:]}
        else:
            others = _listing(against, "auto", None, skip_bad).films
            pairs = near_pairs(prints_of(films, advance), prints_of(others), correlation)
            told = [[keys[pair.first], others[pair.second].record.key] for pair in pairs]
            dropped = {pair.first for pair in pairs}
    if as_json:
        say(json.dumps({"films": len(films), "near_duplicates": told, "dropped": len(dropped)}, indent=2))
    else:
        for group in told:
            say(" = ".join(group))
        say(f"{folder}: {len(films)} films, {len(dropped)} of them near-duplicates of another")
    if out is not None:
        kept = [film for place, film in enumerate(films) if place not in dropped]
        with terminal.bar("pack") as advance:
            manifest = run(kept, out, Packing(shard_size, skip_bad=skip_bad), processes, advance)
        terminal.note(f"{out}: {manifest.count} films; `synthaug data {out}` reads them")


def _listing(folder: str, format: str, reading: list[str] | None, skip_bad: bool) -> "Listing":
    from synthaug.datasets.formats import read_folder

    return read_folder(folder, format, reading_options(reading, skip_bad))


def _films(folder: str, format: str, reading: list[str] | None, skip_bad: bool) -> "Radiographs":
    from synthaug.datasets.base import Radiographs
    from synthaug.datasets.selection import readable

    listing = _listing(folder, format, reading, skip_bad)
    return Radiographs(folder, readable(listing) if skip_bad else listing)


def _shares(parts: list[str]) -> dict[str, float]:
    from synthaug.errors import UserError

    shares: dict[str, Any] = {}
    for part in parts:
        name, _, share = part.partition("=")
        try:
            shares[name] = float(share)
        except ValueError as error:
            raise UserError(
                f"--part {part}: found the share {share!r}, expected NAME=SHARE: train=0.8"
            ) from error
        if not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"--part {part}: found the name {name!r}, expected letters, digits, - and _")
    return shares


def _done(out: str, count: int, left_out: int) -> None:
    dropped = f", {left_out} left out" if left_out else ""
    say(
        f"{out}: {count} films{dropped}; `synthaug data {out}` reads them, `synthaug verify {out}` checks them"
    )
