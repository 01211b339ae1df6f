"""Runs of `adapt` that several tests look at, and a base that no route takes."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

UNSUPPORTED = r"StableDiffusionXLPipeline.*supported is Stable Diffusion 1\.x and 2\.x"


def remembered(
    start: Callable[[str, Path], Iterable[Any]], factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, list]]:
    """`get(route)` -> folder and steps of one finished run, run when it is first asked for."""
    done: dict[str, tuple[Path, list]] = {}

    def get(route: str) -> tuple[Path, list]:
        if route not in done:
            out = factory.mktemp(route) / "result"
            done[route] = out, list(start(route, out))
        return done[route]

    return get


def of_another_architecture(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint that calls itself SDXL."""
    shutil.copytree(checkpoint, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    return folder
