"""The output folder: whose it is, whether it is finished, and the files that finish it."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from synthaug import images
from synthaug.cards import dataset_card
from synthaug.diffusion import Checkpoint
from synthaug.errors import CorruptShardError, DataError, OutputFolderError, SynthaugError
from synthaug.generation.execution import EXECUTION, Execution
from synthaug.generation.gates import of_record, rates
from synthaug.generation.plan import GenerateRecipe, changed
from synthaug.shards import ShardEntry, atomic_write, read_manifest, read_samples, write_manifest
from synthaug.shards.files import atomic

RECIPE, MANIFEST, PREVIEW, CARD = "recipe.yaml", "manifest.json", "preview.png", "README.md"
REJECTED = "rejected.jsonl"
PREVIEWED = 16


def finish(
    recipe: GenerateRecipe,
    checkpoint: Checkpoint,
    execution: Execution,
    folder: Path,
    entries: list[ShardEntry],
) -> None:
    """Contact sheet and card, from what is on the disk; then the manifest."""
    gated = _gated(recipe, folder, entries)
    first = np.stack([images.read(data) for data in islice(encoded(folder, entries), PREVIEWED)])[:, None]
    atomic_write(folder / PREVIEW, images.encode(images.contact_sheet(first)))
    name = recipe.checkpoint.model_dump() if recipe.checkpoint else None
    facts: dict[str, Any] = {
        "count": recipe.count,
        "image_size": recipe.image_size,
        "format": recipe.format,
        "findings": recipe.findings,
        "counts": {
            finding: sum(entry.count for entry in recipe.plan if entry.labels.get(finding) == 1)
            for finding in recipe.findings
        },
        "plan": [entry.model_dump(exclude_none=True) for entry in recipe.plan],
        "checkpoint": name,
        "recipe_digest": recipe.digest(),
        "settings": {
            "seed": recipe.seed,
            "scheduler": recipe.scheduler,
            "num_inference_steps": recipe.num_inference_steps,
            "guidance_scale": recipe.guidance_scale,
            "guidance_interval": recipe.guidance_interval,
            "negative_prompt": recipe.negative_prompt,
        },
        **({"quality": gated, "limits": gate_limits(recipe)} if gated else {}),
        "data_terms": "The terms of the films that the checkpoint was trained on hold for these films too.",
        "attribution": [checkpoint.card.attribution] if checkpoint.card.attribution else [],
        "versions": execution.versions,
    }
    atomic_write(folder / CARD, dataset_card(facts).encode())
    write_manifest(
        folder,
        entries,
        recipe_digest=recipe.digest(),
        checkpoint=name,
        versions=execution.versions,
        synthetic=True,
        **({"gates": gated} if gated else {}),
    )


def _gated(recipe: GenerateRecipe, folder: Path, entries: list[ShardEntry]) -> dict[str, Any] | None:
    """Write the log of rejected candidates, read from the records, and return the rates; None without gates."""
    if recipe.gates is None:
        return None
    rejected: Counter[str] = Counter()
    with atomic(folder / REJECTED) as log:
        for entry in entries:
            with (folder / entry.name).open("rb") as file:
                for record, _ in read_samples(file, entry.name):
                    for one in of_record(record):
                        rejected[one.gate] += 1
                        log.write(f"{json.dumps({'key': record.key, **one.to_json()})}\n".encode())
    return rates(recipe.gates, recipe.count, rejected)


def gate_limits(recipe: GenerateRecipe) -> list[str]:
    """What a gated set must say wherever it is judged."""
    if recipe.gates is None:
        return []
    said = [
        f"GATED ({', '.join(recipe.gates.names)}): figures of this set are of films that passed, not of the generator."
    ]
    if "label" in recipe.gates.names and recipe.gates.judge is not None:
        said.append(
            f"Detector {recipe.gates.judge.name} chose by label: label fidelity measured by that detector says nothing."
        )
    return said


def encoded(folder: Path, entries: Sequence[ShardEntry]) -> Iterator[bytes]:
    """The images of the shards as they are stored; there is no manifest yet to read them by."""
    for entry in entries:
        with (folder / entry.name).open("rb") as file:
            for _, data in read_samples(file, entry.name):
                yield data


def check_folder(folder: Path, recipe: GenerateRecipe) -> None:
    """Raise unless the folder is new, empty, or was begun by the same recipe."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputFolderError(f"{folder}: is a file; choose another --out")
    path = folder / RECIPE
    if not path.exists():
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise OutputFolderError(
                f"{folder}: holds {others[0]} and no {RECIPE}; choose an empty or new folder as --out"
            )
        return
    try:
        before = GenerateRecipe.load(path)
    except SynthaugError as error:
        raise OutputFolderError(
            f"{path}: not a recipe of `synthaug generate` ({error}); choose another --out"
        ) from error
    keys = changed(before, recipe)
    if keys:
        raise OutputFolderError(
            f"{folder}: was made by another recipe, which differs in {', '.join(keys)}; choose another --out"
        )


def finished(folder: Path) -> bool:
    """Whether the manifest and all that it lists are there; a manifest of missing files is removed."""
    if not (folder / MANIFEST).exists():
        return False
    try:
        manifest = read_manifest(folder)
    except (CorruptShardError, DataError):
        whole = False
    else:
        sizes = {folder / entry.name: entry.size for entry in manifest.shards}
        whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
        whole = whole and all((folder / entry.index_name).is_file() for entry in manifest.shards)
        needed = [RECIPE, EXECUTION, PREVIEW, CARD, *([REJECTED] if "gates" in manifest.facts else [])]
        whole = whole and all((folder / name).is_file() for name in needed)
    if not whole:
        (folder / MANIFEST).unlink()
    return whole
