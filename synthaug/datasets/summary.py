"""What is this folder: `synthaug data DIR`, as plain JSON values. No torch is imported."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from synthaug.datasets.decode import Progress
from synthaug.datasets.formats import Options, explain, read_folder
from synthaug.datasets.formats.files import unfinished
from synthaug.datasets.formats.listing import ROW_WITHOUT_IMAGE, Listing
from synthaug.datasets.selection import inspect_images, label_matrix
from synthaug.errors import DataError
from synthaug.prompts import age_words
from synthaug.record import VIEWS, Record
from synthaug.shards import atomic_write, local_path
from synthaug.tables import columns, csv_text

SCHEMA = 1
EXAMPLES = 5
VALUES = ("present", "absent", "unknown")


def summarise(
    root: str | Path,
    format: str = "auto",
    options: Options | None = None,
    decode: bool = True,
    progress: Progress | None = None,
    left_out: str | Path | None = None,
) -> dict[str, Any]:
    """Describe a folder of radiographs.

    Args:
        root: the folder, or the URL of a folder of shards.
        format: a layout's name, or "auto".
        options: how to read it.
        decode: decode every image once, to find those that cannot be read and the sizes of the others.
        progress: called with (films done, films in all) meanwhile.
        left_out: a file to list, as CSV, what the layout left out and why.

    Returns:
        {schema, root, format, explanation, reading, films, synthetic, patients, films_without_patient,
        findings: {finding: {present, absent, unknown}}, views, sexes,
        ages: {known, min, median, max, under_18, decades}, splits, left_out: {reason: {count, examples}},
        unreadable: [{film, reason}], blank: [film], colour: [film] and image_sizes: {"WIDTHxHEIGHT": count},
        all null when not decoded, faults: what a strict reading stumbles on, remarks: what to do about it}.

    Raises:
        DataError: no such folder, or no layout explains it.
    """
    options, faults = options or Options(), []
    try:
        listing = read_folder(root, format, options)
    except DataError as error:
        listing = read_folder(root, format, replace(options, skip_bad=True))
        faults.append(str(error))
    explanation = explain(root, listing.format)
    if left_out is not None:
        list_left_out(listing, left_out)
    records = [film.record for film in listing.films]
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "root": str(root),
        "format": listing.format,
        "explanation": explanation,
        "reading": dict(listing.reading),
        "films": len(records),
        "synthetic": sum(record.synthetic for record in records),
        "patients": len({record.patient for record in records if record.patient is not None}),
        "films_without_patient": sum(record.patient is None for record in records),
        "findings": _findings(listing, records),
        "views": _counts((record.view for record in records), VIEWS),
        "sexes": _counts((record.sex for record in records), ("F", "M")),
        "ages": _ages([record.age for record in records if record.age is not None]),
        "splits": dict(
            sorted(Counter(r.provenance["split"] for r in records if "split" in r.provenance).items())
        ),
        "left_out": {
            reason: {"count": len(keys), "examples": list(keys[:EXAMPLES])}
            for reason, keys in listing.left_out.items()
        },
        "unreadable": None,
        "blank": None,
        "colour": None,
        "image_sizes": None,
        "faults": faults,
        "remarks": [],
    }
    if decode:
        seen = inspect_images(listing.films, progress)
        summary["unreadable"] = [{"film": film, "reason": reason} for film, reason in seen.unreadable.items()]
        summary["blank"], summary["colour"] = list(seen.blank), list(seen.colour)
        summary["image_sizes"] = {
            f"{width}x{height}": count for (height, width), count in seen.shapes.items()
        }
    summary["remarks"] = remarks(summary, root)
    return summary


def remarks(summary: Mapping[str, Any], root: str | Path) -> list[str]:
    """What a user should know of a folder before training on it, each with what to do."""
    said = []
    views = {view: count for view, count in summary["views"].items() if count}
    if views.get("lateral"):
        said.append(f"{views['lateral']} lateral films are kept apart; views='lateral' or 'all' reads them")
    if views.get("PA") and views.get("AP"):
        told = ", ".join(f"{view} {count}" for view, count in views.items())
        said.append(f"views are mixed ({told}) and often go with the finding; views='PA' (or 'AP') takes one")
    if missing := summary["left_out"].get(ROW_WITHOUT_IMAGE):
        share = missing["count"] / (missing["count"] + summary["films"])
        said.append(
            f"{missing['count']} label rows ({share:.0%}) have no image: is the download complete? "
            "--left-out FILE lists them"
        )
    folder = local_path(root)
    if begun := [path.name for path in unfinished(folder)] if folder else []:
        said.append(f"{len(begun)} unfinished downloads such as {begun[0]}; let the download end")
    for what, words in (("blank", "of a single grey value"), ("colour", "in colour: photographs, not films")):
        if found := summary[what]:
            said.append(f"{len(found)} images {words}, such as {found[0]}; look at them, or leave them out")
    if summary["unreadable"]:
        said.append(f"{len(summary['unreadable'])} images cannot be read; --skip-bad leaves them out")
    return said


def list_left_out(listing: Listing, path: str | Path) -> int:
    """Write what was left out as CSV, key and reason; the return value is how many lines.

    Raises:
        DiskFullError, OutputFolderError: it cannot be written.
    """
    rows = [(key, reason) for reason, keys in listing.left_out.items() for key in keys]
    atomic_write(path, csv_text(rows, ["key", "reason"]).encode())
    return len(rows)


def describe(summary: Mapping[str, Any]) -> str:
    """What `summarise` found, as text to read."""
    lines = [
        f"{summary['root']}: {summary['format']} ({summary['explanation']})",
        f"{summary['films']} films of {summary['patients']} known patients, {summary['synthetic']} synthetic",
        *(f"  {what}: {how}" for what, how in summary["reading"].items()),
        "",
        columns(
            [[name, *counts.values()] for name, counts in summary["findings"].items()], ["finding", *VALUES]
        ),
        "",
    ]
    ages = summary["ages"]
    if ages["known"]:
        span = f"{ages['min']:g} to {ages['max']:g}, median {ages['median']:g}"
        lines.append(f"ages: {span}, {ages['under_18']} under 18")
    for what in ("views", "sexes", "splits", "image_sizes"):
        if summary[what]:
            lines.append(
                f"{what.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in summary[what].items())
            )
    lines += [f"left out: {found['count']} x {reason}" for reason, found in summary["left_out"].items()]
    lines += [f"unreadable: {fault['film']}: {fault['reason']}" for fault in summary["unreadable"] or ()]
    lines += [f"fault: {fault}" for fault in summary["faults"]]
    lines += [f"note: {remark}" for remark in summary["remarks"]]
    return "\n".join(lines)


def _findings(listing: Listing, records: Sequence[Record]) -> dict[str, dict[str, int]]:
    labels = label_matrix(records, listing.findings)
    return {
        finding: {
            "present": int((column == 1).sum()),
            "absent": int((column == 0).sum()),
            "unknown": int(np.isnan(column).sum()),
        }
        for finding, column in zip(listing.findings, labels.T, strict=True)
    }


def _counts(values: Iterable[str | None], known: Sequence[str]) -> dict[str, int]:
    counted = Counter(values)
    return {name: counted[name] for name in known} | {"unknown": counted[None]}


def _ages(ages: Sequence[float]) -> dict[str, Any]:
    return {
        "known": len(ages),
        "min": min(ages, default=None),
        "median": median(ages) if ages else None,
        "max": max(ages, default=None),
        "under_18": sum(age < 18 for age in ages),
        "decades": dict(Counter(age_words(age) for age in sorted(ages))),
    }
