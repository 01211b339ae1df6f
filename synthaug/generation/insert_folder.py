"""The folder of `synthaug insert`: whose it is, its records and pictures, and the files that finish it.

Drawn pairs:                                              Given films (`--into`):

    OUT/recipe.yaml            written first                  OUT/recipe.yaml
    OUT/shard-000000.tar ...   000000000 without,             OUT/before/shard-000000.tar ...   000000000, 000000001, ...
                               000000001 with, ...            OUT/after/shard-000000.tar ...    the same keys
    OUT/masks/000000001.png    of the pair's second key       OUT/masks/000000000.png           of the pair's key
    OUT/differences/...png     |with - without|, grey levels  OUT/differences/...png
    OUT/preview.png README.md  contact sheet; card            OUT/preview.png README.md
    OUT/manifest.json          written last                   OUT/before/manifest.json, OUT/after/manifest.json

`before` may hold real films and is then a folder of real radiographs; `after` is synthetic. No file holds a clock, host or
path.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthaug import images
from synthaug.cards import NOT_FOR_DIAGNOSIS, dataset_card
from synthaug.diffusion import Checkpoint
from synthaug.errors import DataError, OutputFolderError
from synthaug.findings import title
from synthaug.recipes import Recipe, differences, read_yaml
from synthaug.record import Record
from synthaug.shards import (
    ShardEntry,
    ShardSet,
    atomic_write,
    existing_shard,
    read_samples,
    write_manifest,
    write_shard,
)

Sample = tuple[Record, bytes, str]

PREVIEWED = 8
BEFORE, AFTER = "before", "after"
LIMITS = (
    "Outside the mask the members are equal by construction; inside, more than the finding may have changed.",
    "Whether the finding can be seen is the checkpoint's doing, and its label is what was asked for.",
)


@dataclass(frozen=True)
class Pair:
    """Two members as stored: their records, films and mask, uint8 (H, W)."""

    records: tuple[Record, Record]
    films: tuple[np.ndarray, np.ndarray]
    mask: np.ndarray


def check_folder(out: Path, recipe: Recipe) -> None:
    """Raise `OutputFolderError` unless the folder is new, empty, or was begun by the same recipe."""
    path = out / "recipe.yaml"
    if not path.exists():
        others = sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) if out.is_dir() else []
        if others:
            raise OutputFolderError(f"--out {out}: holds {others[0]} and no recipe.yaml; choose a new folder")
        return
    if changed := [key for key in differences(read_yaml(path), recipe.values()) if key != "checkpoint.name"]:
        raise OutputFolderError(
            f"--out {out}: was made by another recipe, which differs in {', '.join(changed)}; choose another --out"
        )


def begin(out: Path, recipe: Recipe, given: bool) -> None:
    """The recipe and the folders."""
    if not (out / "recipe.yaml").exists():
        atomic_write(out / "recipe.yaml", recipe.to_yaml().encode())
    for name in ("masks", "differences", *((BEFORE, AFTER) if given else ())):
        (out / name).mkdir(exist_ok=True)


def existing(out: Path, number: int, pairs: int, given: bool) -> list[ShardEntry] | None:
    """The shards of these pairs where an earlier run left them whole, else None."""
    if not given:
        entry = existing_shard(out, number)
        return [entry] if entry is not None and entry.count == 2 * pairs else None
    found = [existing_shard(out / name, number) for name in (BEFORE, AFTER)]
    whole = [entry for entry in found if entry is not None and entry.count == pairs]
    return whole if len(whole) == 2 else None


def write(out: Path, number: int, pairs: Sequence[tuple[Sample, Sample]], given: bool) -> list[ShardEntry]:
    """The shards of these pairs: one, or one before and one after."""
    if not given:
        return [write_shard(out, number, (member for pair in pairs for member in pair))]
    sides = zip((BEFORE, AFTER), zip(*pairs, strict=True), strict=True)
    return [write_shard(out / name, number, members) for name, members in sides]


def write_pictures(out: Path, key: str, pair: Sequence[np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """The mask and the difference map of a pair; returns what its records say of them."""
    encoded = images.encode(mask)
    apart = np.abs(pair[1].astype(np.int16) - pair[0]).astype(np.uint8)
    atomic_write(out / "masks" / f"{key}.png", encoded)
    atomic_write(out / "differences" / f"{key}.png", images.encode(apart))
    return {
        "mask_sha256": hashlib.sha256(encoded).hexdigest(),
        "mask_share": round(float((mask > 0).mean()), 5),
        "mean_difference": round(float(apart.mean()), 3),
    }


def finish(out: Path, recipe: Any, checkpoint: Checkpoint, entries: list[list[ShardEntry]]) -> None:
    """Contact sheet and card, then the manifests."""
    given = recipe.films is not None
    facts: dict[str, Any] = {
        "recipe_digest": recipe.digest(),
        "checkpoint": recipe.checkpoint,
        "pairs": recipe.count,
    }
    shown = _first_films(out, entries, given)
    atomic_write(out / "preview.png", images.encode(images.contact_sheet(shown[:, None], columns=4)))
    card = _given_card(recipe, checkpoint) if given else _drawn_card(recipe, checkpoint, facts)
    atomic_write(out / "README.md", card.encode())
    if not given:
        write_manifest(out, [entry for (entry,) in entries], synthetic=True, **facts)
        return
    for side, name in enumerate((BEFORE, AFTER)):
        write_manifest(out / name, [pair[side] for pair in entries], **facts, member=name)


def read_pairs(out: Path) -> Iterator[Pair]:
    """The pairs of a finished folder of either kind.

    Raises:
        DataError: it is not such a folder.
    """
    given = (out / AFTER).is_dir()
    folders = [out / BEFORE, out / AFTER] if given else [out]
    sets = [ShardSet(folder) for folder in folders]
    for index in range(len(sets[0]) // (1 if given else 2)):
        members = [s[index] for s in sets] if given else [sets[0][2 * index], sets[0][2 * index + 1]]
        (first, second), key = [record for record, _ in members], members[1][0].key
        if "inserted" not in second.provenance or not (out / "masks" / f"{key}.png").is_file():
            raise DataError(
                f"{out}: {key} is no inserted film with a mask; `synthaug insert` makes such folders"
            )
        films = [images.read(data) for _, data in members]
        yield Pair((first, second), (films[0], films[1]), images.read(out / "masks" / f"{key}.png"))


def _first_films(out: Path, entries: list[list[ShardEntry]], given: bool) -> np.ndarray:
    films: list[np.ndarray] = []
    for shards in entries:
        homes = (out / BEFORE, out / AFTER) if given else (out,)
        streams = [_films(home / entry.name) for home, entry in zip(homes, shards, strict=True)]
        for together in zip(*streams, strict=True):
            films += together
            if len(films) >= 2 * PREVIEWED:
                return np.stack(films)
    return np.stack(films)


def _films(path: Path) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        for _, data in read_samples(file, path.name):
            yield images.read(data)


def _settings(recipe: Any) -> dict[str, Any]:
    return {k: v for k, v in recipe.values().items() if k not in ("checkpoint", "count", "label")}


def _drawn_card(recipe: Any, checkpoint: Checkpoint, facts: dict[str, Any]) -> str:
    told = {
        "name": "Pairs of synthetic chest radiographs, with and without a finding",
        "count": 2 * recipe.count,
        "findings": [recipe.label],
        "counts": {recipe.label: recipe.count},
        "settings": _settings(recipe),
        "limits": [*LIMITS, "The member without is asked for no finding; the checkpoint may still draw one."],
        "data_terms": "The terms of the films that the checkpoint was trained on hold for these films too.",
        "attribution": [checkpoint.card.attribution] if checkpoint.card.attribution else [],
    }
    return dataset_card(told | facts)


def _given_card(recipe: Any, checkpoint: Checkpoint) -> str:
    """Of changed films nothing may be said that holds of drawn ones only: a changed real film still shows its person."""
    made = "\n".join(
        f"| {name} | {value} |" for name, value in _settings(recipe).items() if value is not None
    )
    limits = "\n".join(f"- {text}" for text in LIMITS)
    return f"""# Chest radiographs with {title(recipe.label)} inserted

**CHANGED BY A MODEL.** `before/` holds {recipe.count} films as they were given, brought to {recipe.image_size} px; `after/`
holds the same films with {title(recipe.label)} drawn in by {checkpoint.name}. {NOT_FOR_DIAGNOSIS}

Where the films given were real, every film here, `after/` included, still shows the person that was radiographed: it may go
only where the film given may go. Patient, age and sex were not copied; the source's key was. Split by the source's
patients, never between a film and its own change.

| setting | value |
| --- | --- |
{made}

{limits}
- The terms of the films given, and of those that the checkpoint was trained on, hold. {checkpoint.card.attribution}
"""
