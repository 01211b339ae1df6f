"""The folder of a study: what it is made of, what its scores are of, and a file for each trained cell.

OUT/study.json        the recipe, grids and seeds apart, and the digests of the films
OUT/films.json        labels of the films that are scored, in the order of the scores; nobody is named
OUT/cells/NAME.json   the threshold of a cell, and its scores of validation and judge films
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.benchmark.frozen import Score
from synthaug.errors import OutputFolderError
from synthaug.recipes import differences
from synthaug.shards import atomic_write

if TYPE_CHECKING:
    from synthaug.benchmark.study import Cell, Study

DRAWN = ("synthetic", "generators")  # what may lie in OUT before the study begins


def claim_folder(study: "Study", out: Path) -> None:
    """Write `study.json` into a folder that is there, or make sure that it holds the same study; grids and seeds may grow."""
    recipe = study.recipe.values()
    for name in ("seeds", "frozen", "full"):
        recipe.pop(name)
    films = {str(depth): held.digest() for depth, held in study.material.items()}
    path = out / "study.json"
    if path.is_file():
        before = json.loads(path.read_bytes())
        old = {"recipe": before["recipe"], "films": {d: f for d, f in before["films"].items() if d in films}}
        new = {"recipe": recipe, "films": {d: f for d, f in films.items() if d in before["films"]}}
        keys = differences(old, new)
        if keys:
            raise OutputFolderError(
                f"{out}: holds another study, which differs in {', '.join(keys)}; choose another --out"
            )
        films = before["films"] | films
    elif any(entry.name not in DRAWN and not entry.name.startswith(".") for entry in out.iterdir()):
        raise OutputFolderError(f"{out}: is not empty and holds no study; choose a new --out")
    atomic_write(
        path, (json.dumps({"recipe": recipe, "films": films}, indent=1, sort_keys=True) + "\n").encode()
    )


def describe_films(study: "Study", out: Path) -> None:
    """Write `films.json`: labels, and which films share a patient, by side and depth."""
    path = out / "films.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    for depth, material in study.material.items():
        for side, films in (("validation", material.validation), ("judge", material.judge)):
            number = {name: place for place, name in enumerate(dict.fromkeys(films.patients))}
            found.setdefault(depth, {})[side] = {
                "labels": films.labels[:, 0].astype(int).tolist(),
                "patients": [number[name] for name in films.patients],
            }
    atomic_write(path, (json.dumps(found, sort_keys=True) + "\n").encode())


def path_of(cell: "Cell", out: Path) -> Path:
    """The file of a cell's scores."""
    return out / "cells" / f"{cell.name}.json"


def write_score(score: Score, path: Path) -> None:
    """Write a cell's file."""
    values = {
        "threshold": score.threshold,
        "validation": score.validation.tolist(),
        "judge": score.judge.tolist(),
        "note": score.note,
    }
    atomic_write(path, json.dumps(values).encode())


def read_scores(study: "Study", out: str | Path) -> dict["Cell", Score]:
    """The scores of every cell of a finished study."""
    scores = {}
    for cell in study.cells:
        found = json.loads(path_of(cell, Path(out)).read_bytes())
        scores[cell] = Score(
            found["threshold"], np.array(found["validation"]), np.array(found["judge"]), found["note"]
        )
    return scores
