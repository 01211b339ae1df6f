"""What is this folder: `synthaug data DIR`, as plain JSON values. No torch is imported."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from synthaug.datasets.decode import Progress
from synthaug.datasets.formats import Options, detect, read_folder
from synthaug.datasets.formats.listing import Listing
from synthaug.datasets.selection import inspect_images, label_matrix
from synthaug.errors import DataError
from synthaug.prompts import age_words
from synthaug.record import VIEWS, Record
from synthaug.tables import columns

SCHEMA = 1
EXAMPLES = 5
VALUES = ("present", "absent", "unknown")


def summarise(
    root: str | Path,
    format: str = "auto",
    options: Options | None = None,
    decode: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Describe a folder of radiographs.

    Args:
        root: the folder.
        format: a layout's name, or "auto".
        options: how to read it.
        decode: decode every image once, to find those that cannot be read and the sizes of the others.
        progress: called with (films done, films in all) meanwhile.

    Returns:
        {schema, root, format, explanation, reading, films, synthetic, patients, films_without_patient,
        findings: {finding: {present, absent, unknown}}, views, sexes,
        ages: {known, min, median, max, under_18, decades}, splits, left_out: {reason: {count, examples}},
        unreadable: [{film, reason}] and image_sizes: {"WIDTHxHEIGHT": count}, both null when not decoded,
        faults: what a strict reading stumbles on}.

    Raises:
        DataError: no such folder, or no layout explains it.
    """
    options, faults = options or Options(), []
    try:
        listing = read_folder(root, format, options)
    except DataError as error:
        listing = read_folder(root, format, replace(options, skip_bad=True))
        faults.append(str(error))
    found = detect(root)
    explanation = found[1] if found and found[0] == listing.format else f"read as {listing.format}"
    records = [film.record for film in listing.films]
    summary = {
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
        "image_sizes": None,
        "faults": faults,
    }
    if decode:
        unreadable, shapes = inspect_images(listing.films, progress)
        summary["unreadable"] = [{"film": film, "reason": reason} for film, reason in unreadable.items()]
        summary["image_sizes"] = {f"{width}x{height}": count for (height, width), count in shapes.items()}
    return summary


def describe(summary: Mapping[str, Any]) -> str:
    """What `summarise` found, as text to read."""
    lines = [
        f"{summary['root']}: {summary['format']} ({summary['explanation']})",
        f"{summary['films']} films of {summary['patients']} known patients, {summary['synthetic']} synthetic",
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
