"""A small run of `generate`, for its tests."""

from pathlib import Path

from synthaug.generation import generate

EFFUSION = "pleural_effusion"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def draw(checkpoint: Path, out: Path | None, **changes) -> Path:
    options = {"count": 10, "shard_size": 4, "batch_size": 3, "device": "cpu", "model": checkpoint, "seed": 5}
    return generate(changes.pop("labels", EFFUSION), out=out, **(options | changes))
