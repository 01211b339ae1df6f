"""Contact sheets for the report: synthetic films, real ones beside them, and the pairs that the audit found.

Conventions: PNG in `OUT/pictures/`; real films are written only where `show_real` says so, since a report may travel.
"""

from pathlib import Path

import numpy as np

from synthaug.evaluation.privacy import Audit
from synthaug.evaluation.together import Together
from synthaug.images import contact_sheet, encode
from synthaug.shards import atomic_write

FOLDER = "pictures"
SIZE = 160
COUNT = 12


def write_pictures(
    out: Path,
    drawn: Together,
    real: Together | None,
    training: Together | None,
    found: Audit | None,
    show_real: bool = False,
) -> list[str]:
    """Write the sheets that can be made; those of an earlier run that cannot are removed. Returns their names."""
    sheets: dict[str, np.ndarray] = {"synthetic.png": _sheet(drawn)}
    if real is not None and show_real:
        sheets["real.png"] = _sheet(real)
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


def _sheet(data: Together) -> np.ndarray:
    """Films at equal steps through the data set, with what they show."""
    chosen = data.subset(np.unique(np.linspace(0, len(data) - 1, COUNT).round().astype(int)))
    captions = [
        ", ".join(name for name, value in record.labels.items() if value == 1) or "unlabelled"
        for record in chosen.records
    ]
    return contact_sheet(chosen.images_array(SIZE), 6, captions)


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
