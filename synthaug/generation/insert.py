"""Pairs of films, with and without a finding, into a folder of shards; the same command resumes.

    OUT/recipe.yaml            written first
    OUT/shard-000000.tar ...   000000000 without, 000000001 with the finding, 000000002 without, ...
    OUT/masks/000000001.png    where the pair may differ (0: equal to the grey level); one a pair
    OUT/differences/...png     |with - without|, grey levels
    OUT/preview.png README.md  contact sheet, pair by pair; data set card
    OUT/manifest.json          written last

Each record's provenance names its pair, its member, and the SHA-256 of the mask. No file holds a clock, host or path.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from synthaug import __version__, images, prompts
from synthaug.cards import dataset_card
from synthaug.diffusion import Checkpoint, Settings, load_checkpoint, resolve
from synthaug.diffusion.pairs import Pairs, check_shares, sample_pairs
from synthaug.errors import LabelError, OutputFolderError, UserError
from synthaug.findings import NO_FINDING, canonical
from synthaug.generation.plan import KEY
from synthaug.recipes import Recipe, differences, read_yaml
from synthaug.record import Record
from synthaug.shards import ShardEntry, atomic_write, existing_shard, lock, write_manifest, write_shard

MEMBERS = ("without", "with")
PREVIEWED = 8


class InsertRecipe(Recipe):
    """What to draw; None takes the checkpoint's value when a run begins."""

    label: str
    count: int = Field(default=16, gt=0)
    seed: int = Field(default=0, ge=0)
    strength: float = 0.7
    area: float = 0.25
    view: str | None = None
    age: float | None = None
    sex: str | None = None
    image_size: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    shard_size: int = Field(default=500, gt=0)
    checkpoint: dict[str, str] | None = None


def insert(
    recipe: InsertRecipe,
    out: Path,
    model: str = "embedded",
    device: str = "auto",
    batch_size: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw `recipe.count` pairs into `out`.

    Args:
        recipe: the finding, and how far the members may part.
        out: the folder; a begun one is resumed.
        model: whose films.
        batch_size: pairs at once; films of other batch sizes differ by rounding.
        on_progress: called with (pairs done, pairs in all).

    Returns:
        The folder.

    Raises:
        LabelError: the checkpoint was not trained on the finding.
        OutputFolderError: the folder was made by another recipe, or holds other files.
        UserError: a setting that cannot be.
    """
    checkpoint = load_checkpoint(model, device)
    finding = canonical(recipe.label)
    if finding == NO_FINDING or finding not in checkpoint.findings:
        known = ", ".join(name for name in checkpoint.findings if name != NO_FINDING)
        raise LabelError(f"--label {recipe.label}: {checkpoint.name} can insert {known or 'no finding'}")
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: expected 1 or more")
    check_shares(recipe.strength, recipe.area)
    settings = resolve(
        checkpoint, recipe.guidance_scale, None, recipe.num_inference_steps, None, recipe.image_size
    )
    recipe = recipe.model_copy(
        update={
            "label": finding,
            "image_size": settings.image_size,
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        }
    )
    _texts(recipe, checkpoint)  # a view or sex that no prompt has is refused before anything is written
    _check_folder(out, recipe)
    with lock(out):
        if not (out / "recipe.yaml").exists():
            atomic_write(out / "recipe.yaml", recipe.to_yaml().encode())
        for name in ("masks", "differences"):
            (out / name).mkdir(exist_ok=True)
        entries: list[ShardEntry] = []
        for number, first in enumerate(range(0, recipe.count, recipe.shard_size)):
            part = range(first, min(first + recipe.shard_size, recipe.count))
            kept = existing_shard(out, number)
            if kept is None or kept.count != 2 * len(part):
                drawn = _members(recipe, checkpoint, settings, part, out, batch_size, on_progress)
                kept = write_shard(out, number, drawn)
            entries.append(kept)
        _finish(recipe, checkpoint, out, entries)
    return out


def _check_folder(out: Path, recipe: InsertRecipe) -> None:
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


def _texts(recipe: InsertRecipe, checkpoint: Checkpoint) -> tuple[str, str]:
    """The prompts without and with the finding."""
    absent = {NO_FINDING: 1.0} if NO_FINDING in checkpoint.findings else {}
    shown = [
        prompts.render(labels, recipe.view, recipe.age, recipe.sex, checkpoint.template)
        for labels in (absent, {recipe.label: 1.0})
    ]
    return shown[0], shown[1]


def _members(
    recipe: InsertRecipe,
    checkpoint: Checkpoint,
    settings: Settings,
    pairs: range,
    out: Path,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Record, bytes, str]]:
    texts = _texts(recipe, checkpoint)
    for start in range(pairs.start, pairs.stop, batch_size):
        part = range(start, min(start + batch_size, pairs.stop))
        drawn = sample_pairs(
            checkpoint,
            [texts[0]] * len(part),
            [texts[1]] * len(part),
            [(recipe.seed, index) for index in part],
            settings,
            checkpoint.card.negative_prompt,
            recipe.strength,
            recipe.area,
        )
        for place, pair in enumerate(part):
            yield from _pair(recipe, settings, drawn, place, pair, texts, out)
        if on_progress:
            on_progress(part.stop, recipe.count)


def _pair(
    recipe: InsertRecipe,
    settings: Settings,
    drawn: Pairs,
    place: int,
    pair: int,
    texts: tuple[str, str],
    out: Path,
) -> Iterator[tuple[Record, bytes, str]]:
    films = drawn.without[place, 0], drawn.present[place, 0]
    mask = images.encode(drawn.mask[place, 0])
    apart = np.abs(films[1].astype(np.int16) - films[0]).astype(np.uint8)
    name = f"{KEY.format(2 * pair + 1)}.png"
    atomic_write(out / "masks" / name, mask)
    atomic_write(out / "differences" / name, images.encode(apart))
    facts: dict[str, Any] = {
        "pair": pair,
        "inserted": recipe.label,
        "mask_sha256": hashlib.sha256(mask).hexdigest(),
        "mask_share": round(float((drawn.mask[place] > 0).mean()), 5),
        "mean_difference": round(float(apart.mean()), 3),
        "strength": recipe.strength,
        "area": recipe.area,
        "seed": recipe.seed,
        "guidance_scale": settings.guidance_scale,
        "num_inference_steps": settings.num_inference_steps,
        "scheduler": settings.scheduler,
        "checkpoint": recipe.checkpoint,
        "synthaug_version": __version__,
    }
    for number, (member, film) in enumerate(zip(MEMBERS, films, strict=True)):
        labels = {NO_FINDING: 1.0 - number, recipe.label: float(number)}
        record = Record(
            key=KEY.format(2 * pair + number),
            labels=labels,
            view=recipe.view,
            age=recipe.age,
            sex=recipe.sex,
            prompt=texts[number],
            synthetic=True,
            provenance={"member": member, **facts},
        )
        yield record, images.encode(film), "png"


def _finish(recipe: InsertRecipe, checkpoint: Checkpoint, out: Path, entries: list[ShardEntry]) -> None:
    from synthaug.shards import read_samples

    films: list[np.ndarray] = []
    for entry in entries:
        with (out / entry.name).open("rb") as file:
            for _, data in read_samples(file, entry.name):
                if len(films) < 2 * PREVIEWED:
                    films.append(images.read(data))
    shown = np.stack(films)[:, None]
    atomic_write(out / "preview.png", images.encode(images.contact_sheet(shown, columns=4)))
    facts = {
        "name": "Pairs of synthetic chest radiographs, with and without a finding",
        "count": 2 * recipe.count,
        "pairs": recipe.count,
        "findings": [recipe.label],
        "counts": {recipe.label: recipe.count},
        "checkpoint": recipe.checkpoint,
        "recipe_digest": recipe.digest(),
        "settings": {k: v for k, v in recipe.values().items() if k not in ("checkpoint", "count", "label")},
        "limits": [
            "Outside the mask the members are equal by construction; inside, more than the finding may have changed.",
            "The member without is asked for no finding; whether it has none is the checkpoint's to keep.",
        ],
        "data_terms": "The terms of the films that the checkpoint was trained on hold for these films too.",
        "attribution": [checkpoint.card.attribution] if checkpoint.card.attribution else [],
    }
    atomic_write(out / "README.md", dataset_card(facts).encode())
    write_manifest(
        out,
        entries,
        recipe_digest=recipe.digest(),
        checkpoint=recipe.checkpoint,
        synthetic=True,
        pairs=recipe.count,
    )
