"""Prior preservation (Ruiz et al. 2023, DreamBooth, arXiv:2208.12242): films of what the base draws already.

A share of each batch are class films under the class prompt, so that a few new films do not make the model forget
what it could do. Class films come from a folder, or the base draws them before training starts.
"""

import hashlib
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from synthaug import prompts
from synthaug.adaptation import films
from synthaug.adaptation.films import Films
from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.sampler import sample
from synthaug.recipes import Recipe
from synthaug.record import Record

AT_ONCE = 8


class PriorRecipe(Recipe):
    """`prompt`: what the class is called, by default the template without labels; `folder`: class films, else
    `count` are drawn by the base; `share` of each batch, with `weight` in the loss."""

    prompt: str | None = None
    folder: str | None = None
    count: int = Field(default=200, gt=0)
    share: float = Field(default=0.5, gt=0, lt=1)
    weight: float = Field(default=1.0, gt=0)


def class_films(recipe: PriorRecipe, base: Checkpoint, size: int, state: Path, device: torch.device) -> Films:
    """The class films at `size`, under the class prompt; drawn ones are kept in `state` for a resume.

    Raises:
        DataError: `folder` cannot be used.
    """
    prompt = recipe.prompt or prompts.render({}, template=base.template)
    if recipe.folder is not None:
        from synthaug.datasets import open_radiographs

        held = films.load([open_radiographs(Path(recipe.folder))], (size,))
        return Films(held.pyramid, tuple(Record(r.key, {}, prompt=prompt) for r in held.records))
    name = hashlib.sha256(f"{prompt}/{recipe.count}/{base.sha256}/{size}".encode()).hexdigest()[:16]
    path = state / f"prior-{name}.safetensors"
    if not path.exists():
        state.mkdir(parents=True, exist_ok=True)
        base.to(device)
        drawn = []
        for start in range(0, recipe.count, AT_ONCE):
            seeds = [(0, index) for index in range(start, min(start + AT_ONCE, recipe.count))]
            drawn.append(torch.from_numpy(sample(base, [prompt] * len(seeds), seeds)))
        images = torch.cat(drawn)
        if images.shape[-1] != size:
            images = torch.nn.functional.interpolate(
                images, size=(size, size), mode="bicubic", antialias=True
            )
        partial = path.with_suffix(".partial")
        save_file({"films": images.contiguous()}, partial)
        partial.replace(path)
    images = load_file(path)["films"]
    records = tuple(Record(f"prior-{i}", {}, prompt=prompt) for i in range(len(images)))
    return Films({size: images.numpy()}, records)
