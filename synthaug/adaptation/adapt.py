"""From a recipe's name and folders of films to a checkpoint: what `synthaug adapt` calls.

Beside the checkpoint, `OUT/training` holds the state, `samples/` with grids from fixed seeds, `logs/` for
TensorBoard or wandb, and `recipe.yaml`.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL import Image

from synthaug import cards, findings, prompts
from synthaug.adaptation import films
from synthaug.adaptation.films import Films
from synthaug.adaptation.from_scratch import FromScratch, FromScratchRecipe, Part, Progress
from synthaug.datasets.base import Radiographs
from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.sampler import sample
from synthaug.errors import NotInstalledError, OutputFolderError, UnknownNameError
from synthaug.images import contact_sheet
from synthaug.recipes import differences, read_yaml
from synthaug.shards import atomic_write

TRACKERS = ("tensorboard", "wandb")
GRID = 4  # films of each finding in a sample grid


def adapt(
    recipe: FromScratchRecipe,
    data: Sequence[Radiographs],
    out: Path,
    *,
    part: Part | None = None,
    max_steps: int | None = None,
    save_every: int = 500,
    log_with: str | None = None,
    cpu: bool = False,
    compiled: bool = False,
    on_films: Callable[[int, int], None] | None = None,
) -> Iterator[Progress]:
    """Train `recipe` on `data` into the checkpoint folder `out`; the same call resumes.

    Args:
        recipe: from `FromScratchRecipe.load`.
        data: real radiographs.
        out: the checkpoint's folder.
        part: "autoencoder" or "unet" alone (see `from_scratch`); everything when None.
        max_steps: cut every training short, for a trial.
        save_every: steps between saved states and sample grids.
        log_with: "tensorboard" or "wandb"; None keeps no log but the records that are yielded.
        cpu: stay on the CPU.
        compiled: compile the networks.
        on_films: called with (films decoded, films in all).

    Raises:
        OutputFolderError: `out` belongs to another recipe; the differing keys are named.
        DataError: no film fits.
        NotInstalledError: the tracker, or the network of the perceptual loss, is not installed.
    """
    accelerator = Accelerator(
        cpu=cpu, log_with=_tracker(log_with), project_dir=str(out / "training" / "logs")
    )
    _claim(recipe, out)
    held = films.load(data, recipe.film_sizes(), recipe.minimum_age, on_films)
    run = FromScratch(
        recipe, held, out, accelerator, compiled, lambda name, step, made: _grid(out, name, step, made)
    )
    if log_with:
        accelerator.init_trackers("synthaug")
    last: Progress | None = None
    for progress in run.run(part, max_steps, save_every):
        if log_with:
            values = {f"{progress.part}/{key}": value for key, value in progress.record.figures.items()}
            accelerator.log(values, step=progress.record.step)
        last = progress
        yield progress
    if log_with:
        accelerator.end_training()
    if part is None and accelerator.is_main_process:
        atomic_write(out / "README.md", model_card(recipe, held, last).encode())


def model_card(recipe: FromScratchRecipe, held: Films, last: Progress | None = None) -> str:
    """The checkpoint's README.md: data by finding, recipe and digest, limits, attribution; no patient is named."""
    counts = {finding: held.count(finding) for finding in recipe.findings}
    figures = {f"last {key}": value for key, value in last.record.figures.items()} if last else {}
    return cards.model_card(
        {
            "name": "Latent diffusion of chest radiographs, trained from scratch",
            "findings": list(recipe.findings),
            "views": list(recipe.views),
            "image_size": recipe.image_size,
            "route": recipe.route,
            "films": len(held.records),
            "films with": counts,
            "recipe digest": recipe.digest(),
            "films digest": held.digest,
            "figures": figures,
            "limits": [
                "The labels of the training films decide what a finding means here; text-mined labels are noisy.",
                "Films of a small collection: rare combinations of findings are guesses.",
            ],
            "attribution": recipe.attribution,
        }
    )


def _claim(recipe: FromScratchRecipe, out: Path) -> None:
    path = out / "training" / "recipe.yaml"
    if path.exists():
        if changed := differences(read_yaml(path), json.loads(recipe.model_dump_json())):
            raise OutputFolderError(
                f"--out {out} was started with another recipe (differs in {', '.join(changed[:8])}); "
                "choose another folder or the recipe it was started with"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, recipe.to_yaml().encode())


def _grid(out: Path, name: str, step: int, checkpoint: Checkpoint) -> None:
    """A contact sheet of every finding, equal seeds in every row."""
    size = _leg_size(checkpoint, out, name)
    texts = [
        prompts.render({finding: 1.0}, template=checkpoint.template)
        for finding in checkpoint.findings
        for _ in range(GRID)
    ]
    seeds = [(0, index) for _ in checkpoint.findings for index in range(GRID)]
    images = sample(checkpoint, texts, seeds, image_size=size)
    captions = [findings.title(finding) for finding in checkpoint.findings for _ in range(GRID)]
    folder = out / "training" / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"\W+", "-", name)
    Image.fromarray(contact_sheet(images, columns=GRID, captions=captions)).save(
        folder / f"{stem}-{step:06d}.png"
    )


def _leg_size(checkpoint: Checkpoint, out: Path, name: str) -> int:
    legs: list[dict[str, Any]] = read_yaml(out / "training" / "recipe.yaml")["legs"]
    number = int(name.split()[1].split("/")[0]) - 1
    return int(legs[number]["image_size"])


def _tracker(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in TRACKERS:
        raise UnknownNameError("tracker", name, TRACKERS)
    from accelerate.utils import is_tensorboard_available, is_wandb_available

    if not (is_tensorboard_available() if name == "tensorboard" else is_wandb_available()):
        raise NotInstalledError(f"--log-with {name}: {name} is not installed; run `pip install {name}`")
    return name
