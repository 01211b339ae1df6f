"""Contact sheets for the report: synthetic films, real ones beside them, and the pairs that the audit found.

Conventions: PNG in `OUT/pictures/`; synthetic and real films have the same labels row by row; real films are written
only where `show_real` says so, since a report may travel.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synthaug.evaluation.privacy import Audit
from synthaug.evaluation.together import Together
from synthaug.findings import FINDINGS, title
from synthaug.images import contact_sheet, encode
from synthaug.shards import atomic_write

FOLDER = "pictures"
SIZE = 160
COUNT = 12
ACROSS, ROWS = 6, 5


def write_pictures(
    out: Path,
    drawn: Together,
    real: Together | None,
    training: Together | None,
    found: Audit | None,
    show_real: bool = False,
) -> list[str]:
    """Write the sheets that can be made; those of an earlier run that cannot are removed. Returns their names."""
    shown = [name for name in drawn.findings if (drawn.column(name) == 1).any()][:ROWS]
    sheets: dict[str, np.ndarray] = {"synthetic.png": _sheet(drawn, shown)}
    if real is not None and show_real:
        sheets["real.png"] = _sheet(real, shown)
    if found is not None and training is not None:
        sheets["nearest.png"] = _pairs(drawn, training if show_real else None, found)
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("synthetic.png", "real.png", "nearest.png"):
        if name in sheets:
            atomic_write(folder / name, encode(sheets[name]))
        else:
            (folder / name).unlink(missing_ok=True)
    return list(sheets)


def _sheet(data: Together, findings: Sequence[str]) -> np.ndarray:
    """A row a finding, films at equal steps through those that show it; where no finding is shown, through all."""
    blocks, captions = [], []
    rows = [(name, np.flatnonzero(data.column(name) == 1)) for name in findings] or [
        ("unlabelled", np.arange(len(data)))
    ]
    for name, films in rows:
        chosen = (
            films[np.unique(np.linspace(0, len(films) - 1, ACROSS).round().astype(int))]
            if len(films)
            else films
        )
        block = np.zeros((ACROSS, 1, SIZE, SIZE), np.uint8)
        if len(chosen):
            block[: len(chosen)] = data.subset(chosen).images_array(SIZE)
        blocks.append(block)
        captions += [title(name) if name in FINDINGS else name] * len(chosen)
        captions += ["no such film" if not len(chosen) and not i else "" for i in range(ACROSS - len(chosen))]
    return contact_sheet(np.concatenate(blocks), ACROSS, captions)


def _pairs(drawn: Together, training: Together | None, found: Audit) -> np.ndarray:
    """The most correlated synthetic films, each followed by its training film where that may be shown."""
    order = np.argsort(-found.synthetic.correlation, kind="stable")[:COUNT]
    blocks, captions = [], []
    for i in order:
        listed = "listed, " if found.suspicious[i] else ""
        blocks.append(drawn.subset([int(i)]).images_array(SIZE))
        captions.append(f"{listed}r = {found.synthetic.correlation[i]:.3f}")
        if training is not None:
            blocks.append(training.subset([int(found.synthetic.match[i])]).images_array(SIZE))
            captions.append("training film")
    return contact_sheet(np.concatenate(blocks), 6, captions)
