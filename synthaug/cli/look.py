"""Commands that look and change nothing: `findings`, `data`, `verify`, `models`."""

import json
from pathlib import Path
from typing import Annotated, Any

from synthaug import findings
from synthaug.cli import flags, terminal
from synthaug.cli.reading import Reading, reading_options
from synthaug.cli.terminal import say
from synthaug.tables import columns


def list_findings(*, as_json: flags.Json = False) -> None:
    """The vocabulary of findings, with other names that are understood."""
    if as_json:
        _dump({name: list(findings.ALIASES[name]) for name in findings.FINDINGS})
    else:
        say(
            columns(
                [[name, ", ".join(findings.ALIASES[name])] for name in findings.FINDINGS], ["finding", "also"]
            )
        )


def data(
    folder: str,
    /,
    *,
    format: str = "auto",
    skip_decode: Annotated[bool, flags.Switch] = False,
    left_out: Path | None = None,
    reading: Reading = None,
    as_json: flags.Json = False,
) -> None:
    """What is this folder: layout, counts, views, ages, patients, unreadable files.

    Parameters
    ----------
    folder
        The folder of films, or the URL of a folder of shards.
    format
        The layout, where "auto" does not recognise it: shards, nih, chexpert, mimic, csv, ... (docs/datasets.md).
    skip_decode
        Do not decode the films; quicker, but unreadable ones stay unnoticed.
    left_out
        A CSV file to list what was left out (rows without an image, ...) and why.
    """
    from synthaug.datasets.summary import describe, summarise

    options = reading_options(reading)
    with terminal.bar("decode") as advance:
        summary = summarise(
            folder, format, options, decode=not skip_decode, progress=advance, left_out=left_out
        )
    if as_json:
        _dump(summary)
    else:
        say(describe(summary))


def verify(folder: str, /, *, as_json: flags.Json = False) -> int:
    """Check a folder of shards against its manifest; exit code 1 when something is wrong.

    Parameters
    ----------
    folder
        The output of `synthaug generate`, `pack` or `merge`: a folder or its URL.
    """
    from synthaug import shards

    with terminal.bar("verify", "shards") as advance:
        faults = shards.verify(folder, advance)
    if as_json:
        _dump([{"path": f.path, "what": f.what, "found": f.found, "expected": f.expected} for f in faults])
    else:
        for fault in faults:
            say(str(fault))
        say(f"{folder}: {f'{len(faults)} faults' if faults else 'every file is as it was written'}")
    return 1 if faults else 0


def models(*, as_json: flags.Json = False) -> None:
    """The checkpoint and the detector inside the package, and the packaged recipes and splits."""
    from synthaug import embedded
    from synthaug.datasets.splits import packaged_splits
    from synthaug.recipes import packaged

    held = {"checkpoint": embedded.checkpoint_facts(), "detector": embedded.detector_facts()}
    if as_json:
        _dump({**held, "recipes": packaged(), "splits": packaged_splits()})
        return
    for kind, facts in held.items():
        say(f"embedded {kind}: {embedded.in_words(facts)}")
    say(f"recipes: {', '.join(packaged())}\nsplits: {', '.join(packaged_splits())}")


def _dump(value: Any) -> None:
    say(json.dumps(value, indent=2, ensure_ascii=False))
