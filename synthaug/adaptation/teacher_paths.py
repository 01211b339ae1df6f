"""What a teacher draws, step by step, kept on disk: the lessons of `distill`.

A path is one film on its way through the teacher's sampler, with the guidance that the teacher would use. Its states are kept
at `knots`; the last one is the finished film's latents. Between two of them the teacher's steps are even in the logarithm of the
signal-to-noise ratio, over the noise levels that decide a film (`schedule.DECIDED`). A share of the paths begins later, at a
film of the training data under the noise of that knot (as in PeRFlow, Yan et al. 2024, arXiv:2405.07510).

    FOLDER/paths-DIGEST/000000.safetensors      states float16 (B, knots + 1, C, h, w); films, texts and first knot beside them

A file is a function of (recipe, base, films, number) alone: what is there after a kill is kept, and processes share the work.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from synthaug import prompts
from synthaug.adaptation import captions
from synthaug.adaptation.batches import draws
from synthaug.adaptation.captions import CaptionRecipe
from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.sampler import blended, embed, walk
from synthaug.diffusion.schedule import DECIDED, nearest_timesteps, quiet_numpy
from synthaug.diffusion.settings import Settings
from synthaug.errors import RecipeError
from synthaug.findings import title
from synthaug.recipes import Recipe
from synthaug.record import Record

STREAM = 2  # of random numbers, apart from those of the training


class PathsRecipe(Recipe):
    """`count` paths of `teacher_steps` steps, as many between any two knots; `guidance_scale`: the teacher's own when None;
    every 1 / `film_share`-th file of them begins at films, at one window after another."""

    count: int = Field(default=640, gt=0)
    teacher_steps: int = Field(default=16, gt=0)
    guidance_scale: float | None = Field(default=None, ge=1)
    film_share: float = Field(default=0.25, ge=0, le=1)


@dataclass(frozen=True)
class Knots:
    """The noise levels at which states are kept, noisiest first; the last is the student's clean end.

    Attributes:
        times: timestep of each knot but the last, (K,).
        alpha, sigma: (K + 1,) float64: a state is alpha z0 + sigma e.
        windows: the student's steps; K is a multiple of it, and its j-th step begins at knot j K / windows.
        levels: `log_levels` of every timestep.
    """

    times: Tensor
    alpha: Tensor
    sigma: Tensor
    windows: int
    levels: np.ndarray

    def end(self, knot: Tensor) -> Tensor:
        """The knot at which the window of `knot` ends."""
        width = len(self.times) // self.windows
        return (knot // width + 1) * width

    def between(self, steps: int) -> list[int]:
        """Timesteps of the teacher, `steps` from each knot to the next.

        Raises:
            RecipeError: there are fewer timesteps than that between two knots.
        """
        high, low = np.log(DECIDED)
        levels = self.levels
        times: list[int] = []
        for knot, time in enumerate(self.times.tolist()):
            last = knot == len(self.times) - 1
            start, end = levels[time], low if last else levels[int(self.times[knot + 1])]
            if start > high:  # pure noise: one step out of it
                wanted = np.linspace(high, end, steps)[: steps - 1]
            else:
                wanted = np.linspace(start, end, steps if last else steps + 1)[1:steps]
            times += [time, *nearest_timesteps(levels, wanted)]
        if len(set(times)) < len(times) or sorted(times, reverse=True) != times:
            raise RecipeError(
                f"paths.teacher_steps {steps * len(self.times)}: more than the timesteps between two knots"
            )
        return times


@dataclass(frozen=True)
class Paths:
    """Paths by number: states float16 (P, K + 1, C, h, w), the film and the text of each, the knot where it begins."""

    states: Tensor
    films: Tensor
    texts: tuple[str, ...]
    begins: Tensor


class FilePlan(NamedTuple):
    """The film and the text of each path of a file, the knot where they begin, and the numbers still to draw."""

    films: list[int]
    texts: list[str]
    begin: int
    generator: torch.Generator


class Teacher:
    """Draws the paths.

    Args:
        checkpoint: the teacher, on its device.
        settings: its solver (a deterministic one in the units of the schedule), guidance and steps.
        knots: where states are kept; the teacher's steps are a multiple of theirs.
        recipe: how many paths.
        records, weights: of the films; the weights say how often each is drawn.
        caption_recipe: how captions are drawn.
        size: paths in a file.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Settings,
        knots: Knots,
        recipe: PathsRecipe,
        records: Sequence[Record],
        weights: Tensor,
        caption_recipe: CaptionRecipe,
        size: int,
        seed: int,
    ):
        self.checkpoint, self.settings, self.knots, self.recipe = checkpoint, settings, knots, recipe
        self.records, self.weights = records, weights
        edge = settings.image_size // checkpoint.scale_factor
        self.shape = (checkpoint.unet.config.in_channels, edge, edge)
        self.caption_recipe, self.size, self.seed = caption_recipe, size, seed

    @property
    def files(self) -> int:
        """How many files hold the paths."""
        return -(-self.recipe.count // self.size)

    def draw(
        self, folder: Path, latents: Mapping[int, Tensor], rank: int = 0, world: int = 1
    ) -> Iterator[int]:
        """Draw this process's share of the files that are not there yet; yields the number of files done.

        Args:
            latents: film -> float16 (copies, C, h, w), of `starts`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(rank, self.files, world):
            path = folder / f"{number:06d}.safetensors"
            if not path.exists():
                tensors, note = self._file(number, latents)
                partial = path.with_suffix(f".{rank}.partial")
                save_file(tensors, partial, metadata=note)
                os.replace(partial, path)
            yield number + 1

    def plan(self, number: int) -> FilePlan:
        """What a file will hold: a function of (seed, number) alone."""
        size = min(self.size, self.recipe.count - number * self.size)
        generator = draws(self.seed, number, STREAM)
        films = torch.multinomial(self.weights, size, replacement=True, generator=generator).tolist()
        windows, share = self.knots.windows, self.recipe.film_share
        before, now = int(number * share), int((number + 1) * share)
        window = 1 + before % (windows - 1) if now > before and windows > 1 else 0
        texts = [captions.draw(self.records[film], self.caption_recipe, generator) for film in films]
        return FilePlan(films, texts, window * len(self.knots.times) // windows, generator)

    def starts(self) -> list[int]:
        """The films that paths begin at; only these need latents."""
        plans = map(self.plan, range(self.files))
        return sorted({film for plan in plans if plan.begin for film in plan.films})

    @torch.no_grad()
    def _file(self, number: int, latents: Mapping[int, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        films, texts, begin, generator = self.plan(number)
        size, last = len(films), len(self.knots.times)
        noise = torch.randn((size, *self.shape), generator=generator)
        if begin:
            copies = torch.randint(len(latents[films[0]]), (size,), generator=generator).tolist()
            clean = torch.stack([latents[film][one] for film, one in zip(films, copies, strict=True)])
            noise = float(self.knots.alpha[begin]) * clean.float() + float(self.knots.sigma[begin]) * noise
        place = self.checkpoint.device
        away = [self._away(film, text) for film, text in zip(films, texts, strict=True)]
        text, negative = embed(self.checkpoint, texts), blended(self.checkpoint, away)
        stride = self.settings.num_inference_steps // last
        states = torch.zeros((size, last + 1, *self.shape), dtype=torch.float16)
        states[:, begin] = noise.half()
        with quiet_numpy():
            steps = walk(
                self.checkpoint,
                noise.to(place),
                text,
                negative,
                self.settings,
                [],
                begin=begin * stride,
                timesteps=self.knots.between(stride),
            )
            for step, reached in enumerate(steps, begin * stride + 1):
                if step % stride == 0:
                    states[:, step // stride] = reached.half().cpu()
        note = {"films": json.dumps(films), "texts": json.dumps(texts), "begin": str(begin)}
        return {"states": states}, note

    def _away(self, film: int, text: str) -> str:
        """The negative prompt of a path: of the film's view and labels, where the text names them."""
        record, card = self.records[film], self.checkpoint.card
        view = record.view if record.view and f"{record.view} view" in text else None
        parts = text.partition(": ")[2].split(", ")
        words = {1.0: "{}", 0.0: "no {}"}
        named = {f: v for f, v in record.labels.items() if v in words and words[v].format(title(f)) in parts}
        return prompts.negative(
            card.negative_prompt, view=view, contrary=prompts.contrary(named, card.findings)
        )


def read_paths(folder: Path, files: int) -> Paths:
    """All paths of a folder."""
    states, films, begins = [], [], []
    texts: list[str] = []
    for number in range(files):
        with safe_open(folder / f"{number:06d}.safetensors", "pt") as file:
            note = file.metadata()
            states.append(file.get_tensor("states"))
        films += json.loads(note["films"])
        texts += json.loads(note["texts"])
        begins += [int(note["begin"])] * len(states[-1])
    return Paths(torch.cat(states), torch.tensor(films), tuple(texts), torch.tensor(begins))
