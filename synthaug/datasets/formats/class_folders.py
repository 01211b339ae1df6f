"""Class folders: `root/[train|val|test/]FINDING/**/image`, the folder's name being the label.

A folder says one thing, and only that is taken as known: a film in `normal` has `no_finding` = 1, so every
other finding is 0; a film in `effusion` has `pleural_effusion` = 1 and `no_finding` = 0, and everything else
is unknown, the findings of the other folders included. A split folder is `provenance["split"]`. Patients,
ages, sexes and views are unknown.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.listing import Film, Listing, Options
from synthaug.datasets.formats.values import is_split, split_name
from synthaug.errors import DataError, UnknownNameError
from synthaug.findings import NO_FINDING, canonical
from synthaug.record import Record

SIGN = "folders that all name findings"


def detect(root: Path) -> str | None:
    """Why the folder holds one folder a finding, or None: every folder with images must name a finding."""
    places = [_place(root, path) for path in files.find_images(root)]
    if not places or not all(folder and _known(folder) for _, folder in places):
        return None
    folders = sorted({folder for _, folder in places})
    splits = sorted({split for split, _ in places if split})
    return "class folders: " + ", ".join(folders) + (f" in {', '.join(splits)}" if splits else "")


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of class folders, sorted by path.

    Raises:
        DataError: no image, an image outside a class folder, or a folder that names no finding.
    """
    options = options or Options()
    paths = files.find_images(root)
    labels = dict(_labels(root, {_place(root, path)[1] for path in paths}, options.names))
    films, ignored = [], []
    for path, key in zip(paths, files.keys_of(root, paths), strict=True):
        split, folder = _place(root, path)
        finding = labels[folder]
        if finding is None:
            ignored.append(key)
            continue
        values = {finding: 1.0} if finding == NO_FINDING else {NO_FINDING: 0.0, finding: 1.0}
        provenance = {"folder": folder} | ({"split": split_name(split)} if split else {})
        films.append(Film(path, Record(key, values, provenance=provenance)))
    left_out = listing.left_out([("folder left out by names", ignored)])
    findings = listing.ordered({NO_FINDING, *(finding for finding in labels.values() if finding)})
    reading = {f"folder {folder}": finding or "left out" for folder, finding in sorted(labels.items())}
    return Listing("class_folders", listing.some_films(films, root, left_out), findings, left_out, reading)


def _place(root: Path, path: Path) -> tuple[str, str]:
    """Split folder and class folder of an image, "" where there is none."""
    parts = path.relative_to(root).parent.parts
    split = parts[0] if parts and is_split(parts[0]) else ""
    rest = parts[1:] if split else parts
    return split, rest[0] if rest else ""


def _known(folder: str) -> bool:
    try:
        canonical(folder)
    except UnknownNameError:
        return False
    return True


def _labels(
    root: Path, folders: set[str], names: Mapping[str, str | None]
) -> Iterator[tuple[str, str | None]]:
    for folder in folders:
        if not folder:
            raise DataError(f"{root}: found images outside a class folder, expected {root}/<finding>/<image>")
        try:
            finding = names.get(folder, folder)
            yield folder, None if finding is None else canonical(finding)
        except UnknownNameError as error:
            raise DataError(
                f"{root}: the folder {folder!r} names no finding ({error}); say which with "
                f"--name {folder}=FINDING (names={{{folder!r}: FINDING}}, None to leave it out)"
            ) from error
