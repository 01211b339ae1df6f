"""Generate labelled synthetic radiographs into a folder of shards; the same command resumes.

    OUT/recipe.yaml  execution.json      written first: what, and how
    OUT/shard-000000.tar  .index         one after another; a whole one is kept on resume, the rest drawn again
    OUT/preview.png  README.md           contact sheet of the first films, data set card
    OUT/manifest.json                    written last

No file holds a clock, host or path. A batch never crosses a shard, so that batches are made of the same films
whatever was interrupted: equal recipe and equal execution give equal bytes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from synthaug import __version__, images
from synthaug import findings as vocabulary
from synthaug.diffusion import Checkpoint, Settings, load_checkpoint, resolve, sample
from synthaug.errors import OutOfMemoryError, UserError
from synthaug.generation.execution import (
    EXECUTION,
    Execution,
    begin,
    begun,
    is_out_of_memory,
    read_execution,
    running,
)
from synthaug.generation.folder import RECIPE, check_folder, finish, finished
from synthaug.generation.gated import batches
from synthaug.generation.gates import Judge, JudgeName, Rejection, check_judge, parse_gates
from synthaug.generation.plan import KEY, GenerateRecipe, make_recipe
from synthaug.generation.writing import ShardWriter
from synthaug.record import Record
from synthaug.shards import ShardEntry, atomic_write, existing_shard, lock

COUNT = 16
# Bytes a pixel of a radiograph, encoded: for the estimate of a dry run.
BYTES_PER_PIXEL = {"png": 0.6, "jpeg": 0.25, "webp": 0.25}
BYTES_PER_RECORD = 2560


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; films of an earlier, interrupted run count as done but not for the speed."""

    done: int
    total: int
    images_per_second: float
    seconds_left: float


def generate(
    labels: str | Sequence[str] | Mapping[str, float] | None = None,
    *,
    count: int | None = None,
    out: str | Path | None = None,
    model: str | Path = "embedded",
    quality: str = "best",
    seed: int | None = None,
    shard_size: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int | None = None,
    format: str | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    view: str | None = None,
    age: float | None = None,
    sex: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
    recipe: str | Path | GenerateRecipe | None = None,
    gates: Sequence[str] = (),
    judge: Judge | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Draw labelled radiographs into a folder of WebDataset shards.

    Args:
        labels: "pleural_effusion", ["edema", "mass=0"] (one film with both) or {"edema": 1}.
        count: films; 16 when None.
        out: folder; `./<label>-<first 8 of the recipe's digest>` when None. A begun one is resumed.
        model: "embedded", a checkpoint folder or a hub id.
        quality: "best", the checkpoint's own settings, or "fast", its few-step variant.
        seed: with a film's index, all that its noise depends on; 0 when None.
        shard_size: films a shard; 1000 when None.
        num_inference_steps, guidance_scale, negative_prompt, image_size: None takes the checkpoint's.
        batch_size: None chooses by device; halved until it fits in memory. No part of the recipe.
        format: "png" (lossless), "jpeg" or "webp"; "png" when None.
        prompt: replaces the one rendered from the labels, which are then recorded as given.
        view, age, sex: left out of the prompt, and recorded as unknown, when None.
        device: "auto", "cuda", "mps" or "cpu"; a resumed run stays on the one that it began on.
        recipe: several conditions in one run: a `GenerateRecipe`, its YAML file or the name of a packaged one;
            its plan stands in place of labels, prompt, view, age, sex and count, which may then not be given;
            the settings that are given replace the recipe's.
        gates: quality gates, none by default: "blank", "saturated", "duplicate", "label" (see
            `synthaug.generation.gates`); what they reject is drawn again and logged in `rejected.jsonl`.
        judge: the detector of the gate "label".
        dry_run: print the plan and write nothing.
        on_progress: called after each batch.

    Returns:
        The folder.

    Raises:
        UserError: see its tree; nothing is written.
        OutputFolderError: the folder was made by another recipe, holds other files or is in use.
        DiskFullError, OutOfMemoryError: the finished shards are kept.
        FailureError: the gates rejected every candidate of a film.
    """
    asked = {
        "seed": seed,
        "shard_size": shard_size,
        "format": format,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "image_size": image_size,
        "gates": {"names": names} if (names := parse_gates(gates)) else None,
    }
    settings = {name: value for name, value in asked.items() if value is not None}
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: expected 1 or more")
    if recipe is None:
        intent = make_recipe(labels, COUNT if count is None else count, prompt, view, age, sex, **settings)
    else:
        if labels or any(given is not None for given in (count, prompt, view, age, sex)):
            raise UserError(
                "--recipe has its own plan; leave out --label, --count, --prompt, --view, --age and --sex"
            )
        planned = recipe if isinstance(recipe, GenerateRecipe) else GenerateRecipe.load(recipe)
        intent = planned.with_overrides(settings)
    checkpoint = load_checkpoint(model, device, quality=quality)
    resolved = _judged_by(intent.resolved(checkpoint), judge)
    check_judge(resolved.gates, judge, [entry.labels for entry in resolved.plan])
    folder = Path(resolved.folder_name() if out is None else out)
    if dry_run:
        check_folder(folder, resolved)
        print(describe(resolved, folder))
        return folder
    return run(resolved, checkpoint, folder, batch_size, on_progress, judge)


def describe(recipe: GenerateRecipe, folder: Path) -> str:
    """What a run would do, in words; the recipe is a resolved one."""
    size = recipe.count * ((recipe.image_size or 0) ** 2 * BYTES_PER_PIXEL[recipe.format] + BYTES_PER_RECORD)
    lines = [f"{entry.count} films: {entry.prompt}" for entry in recipe.plan]
    lines += [
        f"{recipe.count} films of {recipe.image_size} px, {len(recipe.shards)} shards, about {size / 1e6:.1f} MB",
        f"steps {recipe.num_inference_steps}, guidance scale {recipe.guidance_scale:g}, {recipe.scheduler}",
        f"checkpoint {recipe.checkpoint.name if recipe.checkpoint else '?'}",
        *(
            [f"gates {', '.join(recipe.gates.names)}: what they reject is drawn again"]
            if recipe.gates
            else []
        ),
        f"recipe {recipe.digest()}",
        f"into {folder}",
    ]
    return "\n".join(lines)


def run(
    recipe: GenerateRecipe,
    checkpoint: Checkpoint,
    folder: Path,
    batch_size: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    judge: Judge | None = None,
) -> Path:
    """Begin or resume a resolved recipe; see `generate`."""
    check_folder(folder, recipe)
    with lock(folder):
        check_folder(folder, recipe)
        if finished(folder):
            return folder
        if not (folder / RECIPE).exists():
            atomic_write(folder / RECIPE, recipe.to_yaml().encode())
        settings = resolve(
            checkpoint,
            recipe.guidance_scale,
            recipe.guidance_interval,
            recipe.num_inference_steps,
            recipe.scheduler,
            recipe.image_size,
            recipe.feature_interval,
        )
        execution = read_execution(folder)
        if execution is None:
            execution = begin(folder, checkpoint, settings, batch_size, min(recipe.count, recipe.shard_size))
        else:
            checkpoint = begun(execution, checkpoint, batch_size)
        with running(execution):
            entries = _write_shards(recipe, checkpoint, settings, execution, folder, on_progress, judge)
        finish(recipe, checkpoint, execution, folder, entries)
    return folder


def _write_shards(
    recipe: GenerateRecipe,
    checkpoint: Checkpoint,
    settings: Settings,
    execution: Execution,
    folder: Path,
    on_progress: Callable[[Progress], None] | None,
    judge: Judge | None,
) -> list[ShardEntry]:
    kept = [existing_shard(folder, number) for number in range(len(recipe.shards))]
    kept = [
        entry if entry and entry.count == len(indexes) else None
        for entry, indexes in zip(kept, recipe.shards, strict=True)
    ]
    done, drawn, start, entries = sum(entry.count for entry in kept if entry), 0, time.monotonic(), []

    def draw(places: Sequence[int], noise: Sequence[int]) -> np.ndarray:
        return _draw(recipe, checkpoint, settings, places, noise)

    for number, (indexes, entry) in enumerate(zip(recipe.shards, kept, strict=True)):
        if entry is not None:
            entries.append(entry)
            continue
        rejected: dict[int, list[Rejection]] = {}
        films = batches(recipe, indexes, execution.batch_size, draw, rejected, folder, entries, judge)
        with ShardWriter(folder, number, partial(_samples, recipe, rejected)) as writer:
            for part, block in films:
                writer.put(part, block)
                done, drawn = done + len(part), drawn + len(part)
                speed = drawn / max(time.monotonic() - start, 1e-9)
                if on_progress is not None:
                    on_progress(Progress(done, recipe.count, speed, (recipe.count - done) / speed))
            entries.append(writer.finish())
    return entries


def _draw(
    recipe: GenerateRecipe,
    checkpoint: Checkpoint,
    settings: Settings,
    places: Sequence[int],
    noise: Sequence[int],
) -> np.ndarray:
    """The films of these places, from these noise indexes."""
    try:
        return sample(
            checkpoint,
            [entry.prompt or "" for entry in recipe.entries(places)],
            [(recipe.seed, index) for index in noise],
            negative_prompts=recipe.negative_prompt or "",
            guidance_scale=settings.guidance_scale,
            guidance_interval=settings.guidance_interval,
            num_inference_steps=settings.num_inference_steps,
            scheduler=settings.scheduler,
            image_size=settings.image_size,
            feature_interval=settings.feature_interval,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{checkpoint.device.type}: a batch of {len(places)} no longer fits in memory; free some and run "
            f"the same command again, or delete {EXECUTION} in the output folder and give a smaller --batch-size"
        ) from error


def _samples(
    recipe: GenerateRecipe, rejected: Mapping[int, list[Rejection]], indexes: range, films: np.ndarray
) -> Iterator[tuple[Record, bytes, str]]:
    ending = images.extension(recipe.format)
    for index, entry, film in zip(indexes, recipe.entries(indexes), films[:, 0], strict=True):
        known = {name: float("nan") if value is None else value for name, value in entry.labels.items()}
        values = vocabulary.vector(known, recipe.findings)
        measured: dict[str, Any] = quality(film)
        if recipe.gates is not None:
            measured["index"] = len(rejected.get(index, ())) * recipe.count + index
            measured["rejected"] = [one.to_json() for one in rejected.get(index, ())]
        record = Record(
            key=KEY.format(index),
            labels=dict(zip(recipe.findings, values.tolist(), strict=True)),
            view=entry.view,
            age=entry.age,
            sex=entry.sex,
            prompt=entry.prompt,
            synthetic=True,
            provenance={
                "negative_prompt": recipe.negative_prompt,
                "seed": recipe.seed,
                "guidance_scale": recipe.guidance_scale,
                "guidance_interval": recipe.guidance_interval,
                "num_inference_steps": recipe.num_inference_steps,
                "scheduler": recipe.scheduler,
                **({"feature_interval": recipe.feature_interval} if recipe.feature_interval else {}),
                "checkpoint": recipe.checkpoint.model_dump() if recipe.checkpoint else None,
                "quality": measured,
                "synthaug_version": __version__,
            },
        )
        yield record, images.encode(film, recipe.format), ending


def _judged_by(recipe: GenerateRecipe, judge: Judge | None) -> GenerateRecipe:
    """The recipe with the judge's name in it, where it has a label gate and no judge yet."""
    gates = recipe.gates
    if gates is None or judge is None or "label" not in gates.names or gates.judge is not None:
        return recipe
    named = gates.model_copy(update={"judge": JudgeName(name=judge.name, sha256=judge.sha256)})
    return recipe.model_copy(update={"gates": named})


def quality(film: np.ndarray) -> dict[str, float]:
    """Grey levels of one film (H, W) uint8: mean, standard deviation, share of pixels at 0 or 255."""
    saturated = np.mean((film == 0) | (film == 255))
    return {
        "mean": round(float(film.mean()), 3),
        "std": round(float(film.std()), 3),
        "saturated": round(float(saturated), 5),
    }
