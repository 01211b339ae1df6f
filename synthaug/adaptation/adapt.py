"""From a recipe and folders of films to a checkpoint or an adapter: what `synthaug adapt` calls.

Beside the result, `OUT/training` holds the state, `samples/` with grids from fixed seeds, `logs/` for TensorBoard or
wandb, `recipe.yaml`, and `log.jsonl` and `run.json`, which `--compare` reads.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate.utils import patch_environment
from PIL import Image

from synthaug import cards, findings, prompts
from synthaug.adaptation import patients
from synthaug.adaptation.route import Execution, Job, Progress, RouteRecipe, Run
from synthaug.adaptation.routes import run_class
from synthaug.adaptation.runs import RunLog
from synthaug.datasets.base import Radiographs
from synthaug.diffusion.checkpoint import Checkpoint, load_checkpoint
from synthaug.diffusion.sampler import sample
from synthaug.errors import NotInstalledError, OutputFolderError, RecipeError, UnknownNameError, UserError
from synthaug.images import contact_sheet
from synthaug.recipes import differences, read_yaml
from synthaug.shards import atomic_write

TRACKERS = ("tensorboard", "wandb")
GRID = 4  # films of each finding in a sample grid
GRID_FINDINGS = 4  # findings in a grid: a foreign checkpoint claims dozens


def adapt(
    recipe: RouteRecipe,
    data: Sequence[Radiographs],
    out: Path,
    *,
    model: str | None = None,
    text_encoder: str | None = None,
    captions: Mapping[str, list[str]] | None = None,
    patient_key: Path | None = None,
    execution: Execution | None = None,
    log_with: str | None = None,
    on_films: Callable[[int, int], None] | None = None,
) -> Iterator[Progress]:
    """Train `recipe` on `data` into the folder `out`; the same call resumes.

    Args:
        recipe: from `synthaug.adaptation.routes.load_recipe`; its route decides what is trained.
        data: real radiographs.
        out: folder of the checkpoint or adapter.
        model: what is adapted: "embedded", a folder or a hub id. Of no use to `from_scratch`.
        text_encoder: folder or hub id of the encoder that `text_projection` puts in CLIP's place.
        captions: key of a film -> texts; such films are captioned by one of them.
        patient_key: file with the secret for keyed hashes of the training patients; made if it is not there.
        execution: device, precision, pieces of a batch, how often to save.
        log_with: "tensorboard" or "wandb", beside the log that is always written.
        on_films: called with (films decoded, films in all).

    Raises:
        OutputFolderError: `out` belongs to another recipe; the differing keys are named.
        DataError: no film fits, or a finding of the recipe has none.
        CheckpointError: the base is missing or of an unsupported architecture.
        DiskFullError: the disk has no room for the training state.
        NotInstalledError: the tracker, or the network of the perceptual loss, is not installed.
        TrainingDivergedError: the loss is not finite any more; the last good state is kept.
    """
    execution = execution or Execution()
    if execution.part is not None and recipe.route != "from_scratch":
        raise UserError(f"--part: route {recipe.route} has no parts; leave the flag out")
    accelerator = execution.accelerator(
        log_with=_tracker(log_with), project_dir=str(out / "training" / "logs")
    )
    _check_claim(recipe, out)
    key = patients.read_key(patient_key) if patient_key else None
    # Accelerate's launcher lets transformers read weights in one process alone, which here would leave the others without.
    with patch_environment(fsdp_cpu_ram_efficient_loading="false"):
        base = None
        if recipe.route != "from_scratch":
            base = load_checkpoint(model or "embedded", "cpu", "float32")
        elif model is not None:
            raise UserError("--model: route from_scratch starts from nothing; leave the flag out")
        run = run_class(recipe.route)(
            Job(
                recipe=recipe,
                data=data,
                out=out,
                accelerator=accelerator,
                execution=execution,
                base=base,
                model=model or "embedded",
                text_encoder=text_encoder,
                captions=dict(captions or {}),
                on_films=on_films,
                on_samples=lambda part, step, size, made: _grid(
                    out if accelerator.is_main_process else None, part, step, size, made
                ),
            )
        )
    if not accelerator.is_main_process:
        yield from run.advance()
        return
    run.state.mkdir(parents=True, exist_ok=True)
    atomic_write(_claimed(out), recipe.to_yaml().encode())
    if log_with:
        accelerator.init_trackers("synthaug")
    log = RunLog(run.state, _run_facts(run, recipe, accelerator, execution, base))
    last: Progress | None = None
    try:
        for progress in run.advance():
            log.add(progress, _batch_size(recipe, progress))
            if log_with:
                values = {f"{progress.part}/{name}": value for name, value in progress.record.figures.items()}
                accelerator.log(values, step=progress.record.step)
            last = progress
            yield progress
    finally:
        log.close()
    if log_with:
        accelerator.end_training()
    if execution.part is None:
        if key is not None:
            patients.write(out / patients.FILE, key, run.films.records)
        atomic_write(out / "README.md", model_card(recipe, run, last).encode())


def model_card(recipe: RouteRecipe, run: Run, last: Progress | None = None) -> str:
    """The result's README.md: data by finding, base, settings, limits, attribution; no patient is named."""
    held = run.films
    figures = {f"last {name}": value for name, value in last.record.figures.items()} if last else {}
    attribution = [recipe.attribution] if recipe.attribution else []
    if run.job.base is not None and run.job.base.card.attribution:
        attribution.append(f"Base {run.job.base.name}: {run.job.base.card.attribution}")
    return cards.model_card(
        {
            "name": f"Chest radiographs, route {recipe.route}",
            "findings": list(recipe.findings),
            "views": list(recipe.views),
            "route": recipe.route,
            **run.facts(),
            "films": len(held.records),
            "films with": {finding: held.count(finding) for finding in recipe.findings},
            "patients": len({r.patient for r in held.records if r.patient is not None}) or None,
            "recipe digest": recipe.digest(),
            "films digest": held.digest,
            "settings": {name: value for name, value in recipe.values().items() if name != "attribution"},
            "figures": figures,
            "limits": [
                "The labels of the training films decide what a finding means here; text-mined labels are noisy.",
                "Films of a small collection: rare combinations of findings are guesses.",
            ],
            "attribution": attribution,
            # A base's licence binds what is made from it.
            "license": run.job.base.card.license if run.job.base is not None else "",
        }
    )


def _run_facts(
    run: Run, recipe: RouteRecipe, accelerator: Any, execution: Execution, base: Checkpoint | None
) -> dict[str, Any]:
    free, total = run.parameters()
    return {
        "route": recipe.route,
        "base": base.name if base else None,
        "recipe_digest": recipe.digest(),
        "parameters_trained": free,
        "parameters": total,
        "device": accelerator.device.type,
        "precision": execution.precision or accelerator.mixed_precision,
        "optimizer": execution.optimizer,
        "processes": accelerator.num_processes,
        "sharded": run.sharding is not None,
        "ema_length": execution.averaging.length,
    }


def _batch_size(recipe: Any, progress: Progress) -> int:
    if recipe.route != "from_scratch":
        return recipe.training.batch_size
    if progress.part == "autoencoder":
        return recipe.autoencoder_training.batch_size
    return recipe.legs[int(progress.part.split()[1].split("/")[0]) - 1].batch_size


def _claimed(out: Path) -> Path:
    return out / "training" / "recipe.yaml"


def _check_claim(recipe: RouteRecipe, out: Path) -> None:
    path = _claimed(out)
    if not path.exists():
        return
    found = read_yaml(path)
    # Keys that came with a later version have their defaults, as they had in effect when the run began. A recipe
    # of another route does not fit at all; then its own keys are compared.
    with suppress(RecipeError):
        found = type(recipe).from_values(found, str(path)).values()
    if changed := differences(found, recipe.values()):
        raise OutputFolderError(
            f"--out {out} was started with another recipe (differs in {', '.join(changed[:8])}); "
            "choose another folder or the recipe it was started with"
        )


def _grid(out: Path | None, part: str, step: int, size: int, checkpoint: Checkpoint) -> None:
    """A contact sheet of the findings, equal seeds in every row; drawn and not kept without `out`."""
    shown = checkpoint.findings[:GRID_FINDINGS]
    texts = [prompts.render({f: 1.0}, template=checkpoint.template) for f in shown for _ in range(GRID)]
    seeds = [(0, index) for _ in shown for index in range(GRID)]
    images = sample(checkpoint, texts, seeds, image_size=size)
    if out is None:
        return
    captions = [findings.title(finding) for finding in shown for _ in range(GRID)]
    folder = out / "training" / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"\W+", "-", part)
    sheet = contact_sheet(images, columns=GRID, captions=captions)
    Image.fromarray(sheet).save(folder / f"{stem}-{step:06d}.png")


def _tracker(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in TRACKERS:
        raise UnknownNameError("tracker", name, TRACKERS)
    from accelerate.utils import is_tensorboard_available, is_wandb_available

    if not (is_tensorboard_available() if name == "tensorboard" else is_wandb_available()):
        raise NotInstalledError(f"--log-with {name}: {name} is not installed; run `pip install {name}`")
    return name
