"""Generate labelled synthetic radiographs into a folder of shards; the same command resumes.

    OUT/recipe.yaml  execution.json      written first: what, and how
    OUT/shard-000000.tar  .index         one after another; a whole one is kept on resume, the rest drawn again
    OUT/preview.png  README.md           contact sheet of the first films, data set card
    OUT/manifest.json                    written last

No file holds a clock, host or path. A batch never crosses a shard, so that batches are made of the same films
whatever was interrupted: equal recipe and equal execution give equal bytes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from synthaug.diffusion import Checkpoint, load_checkpoint
from synthaug.diffusion.device import choose_device
from synthaug.diffusion.sources import of_quality
from synthaug.engines import Done, open_engine
from synthaug.errors import UserError
from synthaug.generation.drawing import Artist, Drawing, ShardTask
from synthaug.generation.estimate import describe, estimate
from synthaug.generation.execution import EXECUTION, begun, read_execution, versions
from synthaug.generation.folder import RECIPE, check_folder, finish, finished
from synthaug.generation.gates import Judge, JudgeName, check_judge, parse_gates
from synthaug.generation.place import Place, fitting_execution, here
from synthaug.generation.plan import GenerateRecipe, make_recipe
from synthaug.generation.progress import Progress, Told
from synthaug.generation.writing import sweep
from synthaug.shards import ShardEntry, local_path, open_storage

COUNT = 16


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
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> str | Path:
    """Draw labelled radiographs into a folder of WebDataset shards.

    Args:
        labels: "pleural_effusion", ["edema", "mass=0"] (one film with both) or {"edema": 1}.
        count: films; 16 when None.
        out: folder, or the URL of one in an object store; `./<label>-<first 8 of the recipe's digest>` when None.
            A begun one is resumed.
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
        engine: "local", this process, or "ray", workers on a Ray cluster that share the folder (docs/scale.md).
        address, workers: of the cluster, see `synthaug.engines.open_engine`.
        threads: CPU threads of a worker; None takes torch's. No part of the recipe.
        dry_run: print the plan, time one batch, and write nothing.
        on_progress: called as films are done.

    Returns:
        The folder, or its URL.

    Raises:
        UserError: see its tree; nothing is written.
        OutputFolderError: the folder was made by another recipe, holds other files or is in use.
        DiskFullError, StorageError, OutOfMemoryError: the finished shards are kept.
        FailureError: the gates rejected every candidate of a film, or workers died of a shard.
        NotInstalledError, ClusterError: Ray is not there, or its workers do not fit the run.
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
    if threads is not None and threads < 1:
        raise UserError(f"--threads {threads}: expected 1 or more")
    if recipe is None:
        intent = make_recipe(labels, COUNT if count is None else count, prompt, view, age, sex, **settings)
    else:
        if labels or any(given is not None for given in (count, prompt, view, age, sex)):
            raise UserError(
                "--recipe has its own plan; leave out --label, --count, --prompt, --view, --age and --sex"
            )
        planned = recipe if isinstance(recipe, GenerateRecipe) else GenerateRecipe.load(recipe)
        intent = planned.with_overrides(settings)
    model = of_quality(model, quality)
    with open_engine(engine, address, workers, lambda: choose_device("auto").type) as opened:
        checkpoint = load_checkpoint(model, opened.own_device(device))
        resolved = _judged_by(intent.resolved(checkpoint), judge)
        check_judge(resolved.gates, judge, [entry.labels for entry in resolved.plan])
        folder = resolved.folder_name() if out is None else out
        folder = local_path(folder) or str(folder)
        source = str(Path(model).resolve()) if Path(model).exists() else str(model)
        place = Place(opened, source, opened.device(device), threads)
        if dry_run:
            check_folder(folder, resolved)
            artist = Artist(resolved, source, place.device, loaded=checkpoint)
            print(describe(resolved, folder, estimate(artist, place, batch_size)))
            return folder
        return run(resolved, checkpoint, folder, batch_size, on_progress, judge, place)


def run(
    recipe: GenerateRecipe,
    checkpoint: Checkpoint,
    folder: str | Path,
    batch_size: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    judge: Judge | None = None,
    place: Place | None = None,
) -> str | Path:
    """Begin or resume a resolved recipe, in this process unless another place is given; see `generate`."""
    place = place or here(checkpoint)
    if compares(recipe) and not place.engine.in_order:
        raise UserError(
            "--gate duplicate compares each film with all earlier ones, so shards must be drawn one after another: take "
            "--engine local, or leave the gate out and run `synthaug dedupe` on the finished folder"
        )
    check_folder(folder, recipe)
    storage = open_storage(folder)
    with storage.lock():
        check_folder(folder, recipe)
        if finished(folder):
            return folder
        if not storage.exists(RECIPE):
            storage.create(RECIPE, recipe.to_yaml().encode())
        sweep(folder)
        artist = Artist(recipe, place.model, place.device, loaded=checkpoint)
        execution = read_execution(folder)
        if execution is None:
            execution = fitting_execution(artist, place, batch_size)
            storage.create(EXECUTION, execution.to_bytes())
        else:
            begun(execution, batch_size, place.threads)
        artist = replace(artist, device=execution.device, dtype=execution.dtype)
        place = replace(place, device=execution.device)
        shared = folder.resolve() if isinstance(folder, Path) else folder
        job = Drawing(artist, execution, shared, versions(), judge)
        entries = _write_shards(job, place, on_progress)
        sweep(folder)
        finish(recipe, checkpoint, execution, folder, entries)
    return folder


def _write_shards(
    job: Drawing, place: Place, on_progress: Callable[[Progress], None] | None
) -> list[ShardEntry]:
    """Have every shard written; the lines of the manifest, in order."""
    recipe, entries = job.artist.recipe, dict[int, ShardEntry]()

    def tasks() -> Iterator[ShardTask]:
        for number in range(recipe.shards):
            yield ShardTask(number, tuple(entries[n] for n in range(number)) if compares(recipe) else ())

    told = Told(recipe.count, place.engine, on_progress)
    with closing(place.run(job, tasks(), job.execution.threads)) as events:
        for event in events:
            told(event)
            if isinstance(event, Done):
                entries[event.task.number] = event.result.entry
    return [entries[number] for number in range(recipe.shards)]


def compares(recipe: GenerateRecipe) -> bool:
    """Whether films are compared with those of all earlier shards."""
    return recipe.gates is not None and "duplicate" in recipe.gates.names


def _judged_by(recipe: GenerateRecipe, judge: Judge | None) -> GenerateRecipe:
    """The recipe with the judge's name in it, where it has a label gate and no judge yet."""
    gates = recipe.gates
    if gates is None or judge is None or "label" not in gates.names or gates.judge is not None:
        return recipe
    named = gates.model_copy(update={"judge": JudgeName(name=judge.name, sha256=judge.sha256)})
    return recipe.model_copy(update={"gates": named})
