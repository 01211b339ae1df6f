"""Texts of films from a table, and what in them a film cannot show.

A report speaks of more than its film: of earlier films ("unchanged since"), of dates, of what de-identification left
blank ("___"). A generator that is trained on such words learns that they mean nothing, or draws what they name. They
are counted, shown, and taken out when asked: whole sentences with a comparison, dates and blanks by themselves.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from synthaug.datasets.formats.files import read_table
from synthaug.errors import DataError

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
FAULTS: dict[str, re.Pattern[str]] = {
    "blank": re.compile(r"_{2,}|\[\*\*.*?\*\*\]|\bX{4,}\b"),
    "date": re.compile(
        rf"\b\d{{4}}-\d\d?-\d\d?\b|\b\d\d?[/.]\d\d?[/.]\d{{2,4}}\b|\b(?:{_MONTHS})[a-z]*\.? \d{{1,2}},? \d{{4}}\b",
        re.IGNORECASE,
    ),
    "comparison": re.compile(
        r"\b(?:compar(?:ed|ison)|prior (?:stud|film|exam|radiograph|chest)\w*|previous(?:ly)?|unchanged|interval|"
        r"since the|again (?:seen|noted)|(?:improv|worsen)(?:ed|ing)|stable (?:appearance|in))\b",
        re.IGNORECASE,
    ),
}
SHOWN = 3


@dataclass(frozen=True)
class Captions:
    """`texts`: key of a film -> its texts; `faults`: fault -> texts that have it; `examples` of each; `dropped`."""

    texts: dict[str, list[str]]
    faults: dict[str, int]
    examples: dict[str, list[str]]
    dropped: int
    mended: bool

    def summary(self) -> str:
        """What was read, for people."""
        lines = [f"captions: {sum(map(len, self.texts.values()))} texts of {len(self.texts)} films"]
        for fault, count in self.faults.items():
            shown = "; ".join(repr(text[:80]) for text in self.examples[fault])
            what = "mended" if self.mended else "left as they are, --mend-captions takes them out"
            lines.append(f"  {count} with a {fault} ({what}): {shown}")
        if self.dropped:
            lines.append(f"  {self.dropped} of which nothing was left")
        return "\n".join(lines)


def read_captions(path: Path, keys: Sequence[str], mend: bool = False) -> Captions:
    """Read a CSV with the columns image and text.

    Args:
        path: several lines of one image are several captions of it.
        keys: of the films; a line names one by key or by the stem of its file.
        mend: take out what a film cannot show.

    Raises:
        DataError: a missing column, an empty text, or lines that match no film; they are named.
    """
    table = read_table(path)
    for column in ("image", "text"):
        if column not in table.columns:
            raise DataError(
                f"{path}: no column {column!r}, expected image and text; found {list(table.columns)}"
            )
    by_name = {name: key for key in keys for name in (key, PurePosixPath(key).name)}
    texts: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    strangers, dropped = [], 0
    for place, row in table.rows_with_place():
        image, text = PurePosixPath(row["image"]), " ".join(row["text"].split())
        key = by_name.get(str(image)) or by_name.get(str(image.with_suffix(""))) or by_name.get(image.stem)
        if key is None:
            strangers.append(row["image"])
            continue
        if not text:
            raise DataError(f"{place}: the text of {row['image']} is empty; drop the line")
        for fault in faults(text):
            counts[fault] += 1
            examples.setdefault(fault, []).append(text)
        text = mended(text) if mend else text
        if text:
            texts.setdefault(key, []).append(text)
        else:
            dropped += 1
    if strangers:
        raise DataError(
            f"{path}: {len(strangers)} lines match no film of --data, the first {', '.join(strangers[:SHOWN])}; "
            "give the folders of these films, or drop the lines"
        )
    few = {fault: found[:SHOWN] for fault, found in examples.items()}
    return Captions(texts, dict(counts), few, dropped, mend)


def faults(text: str) -> list[str]:
    """Names of what a text has that a film cannot show."""
    return [name for name, pattern in FAULTS.items() if pattern.search(text)]


def mended(text: str) -> str:
    """The text without sentences that compare, and without dates and blanks."""
    sentences = re.split(r"(?<=[.!?]) +", text)
    kept = " ".join(s for s in sentences if not FAULTS["comparison"].search(s))
    for fault in ("blank", "date"):
        kept = FAULTS[fault].sub("", kept)
    kept = re.sub(r"\s+([.,;:!?])", r"\1", " ".join(kept.split()))
    return kept.strip(" ,;:") if re.search(r"\w", kept) else ""
