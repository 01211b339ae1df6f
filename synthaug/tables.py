"""Tables as text: aligned columns to read, CSV to compute with."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def columns(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """Rows as aligned columns under a header, without trailing spaces."""
    texts = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)


def csv_text(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """Rows under a header as CSV, lines ended by a newline."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
