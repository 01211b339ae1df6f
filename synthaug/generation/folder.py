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
from synthaug.recipes import parse_yaml
from synthaug.record import Record
from synthaug.shards import ShardEntry, local_path, open_storage, read_manifest, read_samples, write_manifest

RECIPE, MANIFEST, PREVIEW, CARD = "recipe.yaml", "manifest.json", "preview.png", "README.md"
REJECTED = "rejected.jsonl"
PREVIEWED = 16


def finish(
    recipe: GenerateRecipe,
    checkpoint: Checkpoint,
    execution: Execution,
    folder: str | Path,
    entries: list[ShardEntry],
) -> None:
    """Contact sheet and card, from what is on the disk; then the manifest."""
    storage = open_storage(folder)
    gated = _gated(recipe, folder, entries)
    first = np.stack([images.read(data) for data in islice(encoded(folder, entries), PREVIEWED)])[:, None]
    storage.write(PREVIEW, images.encode(images.contact_sheet(first)))
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
            **recipe.sampling_facts(),
            "negative_prompt": recipe.negative_prompt,
        },
        **({"quality": gated, "limits": gate_limits(recipe)} if gated else {}),
        "data_terms": "The terms of the films that the checkpoint was trained on hold for these films too.",
        "attribution": [checkpoint.card.attribution] if checkpoint.card.attribution else [],
        "versions": execution.versions,
    }
    storage.write(CARD, dataset_card(facts).encode())
    write_manifest(
        folder,
        entries,
        recipe_digest=recipe.digest(),
        checkpoint=name,
        versions=execution.versions,
        synthetic=True,
        **({"gates": gated} if gated else {}),
    )


def _gated(recipe: GenerateRecipe, folder: str | Path, entries: list[ShardEntry]) -> dict[str, Any] | None:
    """Write the log of rejected candidates, read from the records, and return the rates; None without gates."""
    if recipe.gates is None:
        return None
    rejected, lines = Counter[str](), []
    for record, _ in _samples(folder, entries):
        for one in of_record(record):
            rejected[one.gate] += 1
            lines.append(json.dumps({"key": record.key, **one.to_json()}) + "\n")
    open_storage(folder).write(REJECTED, "".join(lines).encode())
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


def encoded(folder: str | Path, entries: Sequence[ShardEntry]) -> Iterator[bytes]:
    """The images of the shards as they are stored."""
    for _, data in _samples(folder, entries):
        yield data


def _samples(folder: str | Path, entries: Sequence[ShardEntry]) -> Iterator[tuple[Record, bytes]]:
    """Records and images; there is no manifest yet to read them by."""
    storage = open_storage(folder)
    for entry in entries:
        with storage.open(entry.name) as file:
            yield from read_samples(file, entry.name)


def check_folder(folder: str | Path, recipe: GenerateRecipe) -> None:
    """Raise unless the folder is new, empty, or was begun by the same recipe."""
    local, storage = local_path(folder), open_storage(folder)
    if local is not None and local.exists() and not local.is_dir():
        raise OutputFolderError(f"{folder}: is a file; choose another --out")
    try:
        text = storage.read(RECIPE)
    except FileNotFoundError:
        if others := sorted(name for name in storage.names() if not name.startswith(".")):
            raise OutputFolderError(
                f"{folder}: holds {others[0]} and no {RECIPE}; choose an empty or new folder as --out"
            ) from None
        return
    try:
        before = GenerateRecipe.from_values(parse_yaml(text, RECIPE), RECIPE)
    except SynthaugError as error:
        raise OutputFolderError(
            f"{storage.where(RECIPE)}: not a recipe of `synthaug generate` ({error}); choose another --out"
        ) from error
    keys = changed(before, recipe)
    if keys:
        raise OutputFolderError(
            f"{folder}: was made by another recipe, which differs in {', '.join(keys)}; choose another --out"
        )


def finished(folder: str | Path) -> bool:
    """Whether the manifest and all that it lists are there; a manifest of missing files is removed."""
    storage = open_storage(folder)
    there = storage.names()
    if MANIFEST not in there:
        return False
    try:
        manifest = read_manifest(folder)
    except (CorruptShardError, DataError):
        whole = False
    else:
        whole = all(there.get(entry.name) == entry.size for entry in manifest.shards)
        needed = [RECIPE, EXECUTION, PREVIEW, CARD, *([REJECTED] if "gates" in manifest.facts else [])]
        needed += [entry.index_name for entry in manifest.shards]
        whole = whole and there.keys() >= set(needed)
    if not whole:
        storage.remove(MANIFEST)
    return whole
