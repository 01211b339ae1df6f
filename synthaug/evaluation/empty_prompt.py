"""The empty-prompt control: films of the very noises of labelled films, drawn without a prompt.

A film of this control depends on its noise alone: no prompt, and guidance off, since there is nothing to lead toward. The noises
(recipe seed, index) are those of labelled films, so many of each entry of their plan. Who is asked for the label that each noise
was drawn with can only guess: whatever the threshold, the accuracy is a half but for chance. A judge that does better knows the
noise, or the noises of present and of absent films differ.

    OUT/recipe.yaml           which noises, which checkpoint, how; written first
    OUT/shard-000000.tar ...  keys are the indexes of the noises
    OUT/manifest.json         written last; the same call resumes shard by shard
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from synthaug import __version__, images
from synthaug.datasets.synthetic import SyntheticRadiographs
from synthaug.diffusion import Checkpoint, load_checkpoint, sample
from synthaug.evaluation.label_fidelity import noise_index
from synthaug.generation.execution import BATCH_SIZES
from synthaug.generation.insert_folder import check_folder
from synthaug.generation.plan import KEY, CheckpointName, GenerateRecipe
from synthaug.recipes import Recipe
from synthaug.record import Record
from synthaug.shards import MANIFEST, atomic_write, existing_shard, write_manifest, write_shard

SHARD = 64


class EmptyPromptRecipe(Recipe):
    """Which noises are drawn without a prompt, and how."""

    noises: tuple[int, ...]
    findings: tuple[str, ...]
    seed: int
    checkpoint: CheckpointName
    image_size: int
    num_inference_steps: int
    scheduler: str
    noise_scale: float | None = None
    feature_interval: int | None = None


def noises_of(data: Any, recipe: GenerateRecipe, count: int) -> tuple[int, ...]:
    """The noise indexes of the first `count` films of each entry of the plan that a folder was drawn by, rising."""
    records = sorted(data.records, key=lambda record: record.key)
    taken = [0] * len(recipe.plan)
    places = {id(entry): number for number, entry in enumerate(recipe.plan)}
    chosen = []
    for record, entry in zip(records, recipe.entries([int(r.key) for r in records]), strict=True):
        number = places[id(entry)]
        if taken[number] < count:
            taken[number] += 1
            chosen.append(noise_index(record))
    return tuple(sorted(chosen))


def draw_empty(
    data: Any,
    recipe: GenerateRecipe,
    model: str | Path,
    out: str | Path,
    count: int,
    device: str = "auto",
) -> SyntheticRadiographs:
    """Draw the control of one folder of synthetic films into `out` and open it.

    Arguments: `data` the folder's films, `recipe` what they were drawn by, `model` the checkpoint that drew them, `count` films
    of each entry of the plan. Raises `RecipeError` where another checkpoint drew them, `OutputFolderError` where `out` holds
    other films.
    """
    checkpoint, out = load_checkpoint(model, device), Path(out)
    resolved = recipe.resolved(checkpoint)
    wanted = EmptyPromptRecipe.from_values(
        {
            "noises": noises_of(data, recipe, count),
            "findings": recipe.findings,
            "seed": recipe.seed,
            "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
            "image_size": resolved.image_size,
            "num_inference_steps": resolved.num_inference_steps,
            "scheduler": resolved.scheduler,
            "noise_scale": resolved.noise_scale,
            "feature_interval": resolved.feature_interval,
        },
        "empty prompt",
    )
    check_folder(out, wanted)
    if not (out / MANIFEST).is_file():
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(out / "recipe.yaml", wanted.to_yaml().encode())
        entries = []
        for number, start in enumerate(range(0, len(wanted.noises), SHARD)):
            noises = wanted.noises[start : start + SHARD]
            entry = existing_shard(out, number)
            if entry is None or entry.count != len(noises):
                entry = write_shard(out, number, _samples(wanted, checkpoint, noises))
            entries.append(entry)
        name = wanted.checkpoint.model_dump()
        write_manifest(out, entries, recipe_digest=wanted.digest(), checkpoint=name, synthetic=True)
    return SyntheticRadiographs(out)


def _samples(
    recipe: EmptyPromptRecipe, checkpoint: Checkpoint, noises: Sequence[int]
) -> Iterator[tuple[Record, bytes, str]]:
    batch = BATCH_SIZES[checkpoint.device.type]
    for start in range(0, len(noises), batch):
        part = noises[start : start + batch]
        films = sample(
            checkpoint,
            [""] * len(part),
            [(recipe.seed, index) for index in part],
            negative_prompts="",
            guidance_scale=1.0,
            num_inference_steps=recipe.num_inference_steps,
            scheduler=recipe.scheduler,
            noise_scale=recipe.noise_scale,
            image_size=recipe.image_size,
            feature_interval=recipe.feature_interval,
        )
        for index, film in zip(part, films[:, 0], strict=True):
            provenance = {
                "seed": recipe.seed,
                "guidance_scale": 1.0,
                "num_inference_steps": recipe.num_inference_steps,
                "scheduler": recipe.scheduler,
                "checkpoint": recipe.checkpoint.model_dump(),
                "synthaug_version": __version__,
            }
            unknown = dict.fromkeys(recipe.findings, float("nan"))
            record = Record(KEY.format(index), unknown, prompt="", synthetic=True, provenance=provenance)
            yield record, images.encode(film), "png"
