"""What travels inside the package: the facts of its checkpoint and its detector, read without torch."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def checkpoint_facts() -> dict[str, Any] | None:
    """`synthaug.json` of the embedded checkpoint; None in an installation without it."""
    return _facts("embedded", "synthaug.json")


def detector_facts() -> dict[str, Any] | None:
    """`config.json` of the embedded detector; None in an installation without it."""
    return _facts("embedded-detector", "config.json")


def in_words(facts: Mapping[str, Any] | None) -> str:
    """Facts of either as one line."""
    if facts is None:
        return "absent from this installation"
    return f"{facts['image_size']} px; findings {', '.join(facts['findings'])}"


def _facts(folder: str, name: str) -> dict[str, Any] | None:
    file = files("synthaug").joinpath("assets", folder, name)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
