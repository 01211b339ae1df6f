"""The route `distill`: a student that draws in a few steps, without guidance, what its teacher draws in many with it.

The way from noise to film is cut into as many windows as the student has steps. Over a window from t to s the student learns to
make in one DDIM step the way that the teacher's guided solver makes in several. That step ends at z_s if the student predicts

    x* = (z_s - r z_t) / (alpha_s - r alpha_t),  r = sigma_s / sigma_t,    v* = (alpha_t z_t - x*) / sigma_t

at z_t, and L = E || v(z_t, t) - v* ||^2 + `power` E d(x(z_t, t), x*), d the distance of their radially averaged power channel by
channel (`power_distance`): a student that is not quite there is too smooth otherwise, and what it smooths in one step it cannot
sharpen in the next. That is one round of progressive distillation (Salimans and Ho 2022, arXiv:2202.00512)
of a guided teacher (Meng et al. 2023, arXiv:2210.03142), with windows as in PeRFlow (Yan et al. 2024, arXiv:2405.07510) and a
teacher whose paths are drawn once and kept (Luhman and Luhman 2021, arXiv:2101.02388). The targets hold no noise and follow no
moving network, so few steps teach much; a consistency loss needs no paths, but many more steps. Knots within a window lead to
its end as well, for twice the steps.

The result samples with DDIM in `windows` steps, guidance scale 1. With `rank` it is an adapter of low rank, else a checkpoint.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from synthaug.adaptation import films, latents
from synthaug.adaptation.batches import draws, share
from synthaug.adaptation.captions import CaptionRecipe
from synthaug.adaptation.denoising import DiffusionRecipe, TextToNoise, film_weights
from synthaug.adaptation.fine_tuning import FineTuning, FineTuningRecipe
from synthaug.adaptation.loop import StepRecord
from synthaug.adaptation.lora import config, inject, save_factors
from synthaug.adaptation.power import power_distance
from synthaug.adaptation.results import write_adapter
from synthaug.adaptation.route import Progress
from synthaug.adaptation.teacher_paths import Knots, Paths, PathsRecipe, Teacher, read_paths
from synthaug.diffusion.adapters import LORA
from synthaug.diffusion.card import CheckpointCard
from synthaug.diffusion.checkpoint import Checkpoint, save_as_saved
from synthaug.diffusion.components import quiet
from synthaug.diffusion.sampler import embed
from synthaug.diffusion.schedule import log_levels, make_scheduler, quiet_numpy
from synthaug.diffusion.settings import resolve
from synthaug.errors import RecipeError
from synthaug.record import Record

SOLVER = "dpmsolver++"  # of the teacher: deterministic, and in the units of the schedule
# Everything but the first and last layer: a student changes what each layer does, not only what it attends to.
TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    "conv1", "conv2", "conv_shortcut", "conv", "time_emb_proj", "linear_1", "linear_2",
)  # fmt: skip
OF_NO_USE = ("prior", "offset_noise", "posterior", "zero_terminal_snr", "sampling")


class DistillRecipe(FineTuningRecipe):
    """`windows`: the student's steps; `knots`: states kept in a window; `rank`: of an adapter, all weights when None; `power`:
    weight of the distance in power. Texts of the paths name `findings` alone."""

    route: Literal["distill"] = "distill"
    windows: int = Field(default=4, gt=0)
    knots: int = Field(default=2, gt=0)
    paths: PathsRecipe = PathsRecipe()
    rank: int | None = Field(default=None, gt=0)
    alpha: int = Field(default=16, gt=0)
    power: float = Field(default=0.0, ge=0)
    targets: tuple[str, ...] = TARGETS
    captions: CaptionRecipe = CaptionRecipe(dropout=0.0)

    @model_validator(mode="after")
    def _meant(self) -> Self:
        for name in OF_NO_USE:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no use in distillation; leave it out")
        if self.training.min_snr is not None:
            raise ValueError("training.min_snr has no use in distillation; leave it out")
        if self.paths.teacher_steps % (self.windows * self.knots):
            raise ValueError(
                f"paths.teacher_steps {self.paths.teacher_steps}: expected a multiple of windows x knots, "
                f"{self.windows * self.knots}"
            )
        return self


class WindowBatch(NamedTuple):
    """States z_t, the v that leads to the window's end, timesteps, text embeddings and window of each; alpha and sigma of the
    states, (B, 1, 1, 1)."""

    noisy: Tensor
    target: Tensor
    timesteps: Tensor
    text: Tensor
    windows: Tensor
    alpha: Tensor
    sigma: Tensor


def find_knots(student: Any, windows: int, knots: int) -> Knots:
    """Where states are kept: at the student's steps, and between them at those of `knots` times as many.

    Args:
        student: the DDIM scheduler of the result.

    Raises:
        RecipeError: the timesteps of the two do not meet.
    """
    with quiet_numpy():
        student.set_timesteps(windows * knots)
        fine = student.timesteps.long().cpu()
        student.set_timesteps(windows)
        coarse = student.timesteps.long().cpu()
    if not torch.equal(fine[::knots], coarse) or fine[-1] <= 0:
        raise RecipeError(
            f"windows {windows}: DDIM steps at {coarse.tolist()}, with {knots} knots a window at {fine.tolist()}; expected "
            "every one of the first among the second, and none at 0: a number of windows that divides the schedule, and a "
            "base with timestep_spacing trailing (or rank: null, which writes such a schedule)"
        )
    kept = torch.cat([student.alphas_cumprod.double()[fine], student.final_alpha_cumprod.double().reshape(1)])
    return Knots(fine, kept.sqrt(), (1 - kept).sqrt(), windows, log_levels(student.alphas_cumprod))


def window_target(start: Tensor, end: Tensor, t: Tensor, s: Tensor, knots: Knots) -> Tensor:
    """The v at states `start` whose DDIM step from knots t to knots s, (B,), is `end`; states (B, C, h, w)."""
    alpha_t, sigma_t = (part[t][:, None, None, None] for part in (knots.alpha, knots.sigma))
    alpha_s, sigma_s = (part[s][:, None, None, None] for part in (knots.alpha, knots.sigma))
    ratio = sigma_s / sigma_t
    clean = (end.double() - ratio * start.double()) / (alpha_s - ratio * alpha_t)
    return ((alpha_t * start.double() - clean) / sigma_t).float()


class WindowRoute:
    """Draws states of kept paths as a function of (seed, step); the loss of one step over a window.

    Args:
        module: the student.
        prediction: "v_prediction" or "epsilon": what it predicts.
        knots, paths: of the teacher.
        text: embeddings of the paths' texts, (U, length, width), and of which each path has, (P,).
        train: which paths are learnt from.
        recipe: batch size and seed.
        power: weight of the distance in power.
    """

    def __init__(
        self,
        module: nn.Module,
        prediction: str,
        knots: Knots,
        paths: Paths,
        text: tuple[Tensor, Tensor],
        train: Sequence[int],
        recipe: DiffusionRecipe,
        power: float = 0.0,
    ):
        self.players: dict[str, nn.Module] = {"unet": module}
        self.module, self.prediction, self.knots, self.paths = module, prediction, knots, paths
        self.text, self.recipe, self.power, self.count = text, recipe, power, len(knots.times)
        chosen = torch.tensor(list(train), dtype=torch.long)
        self.at = [chosen[paths.begins[chosen] <= knot] for knot in range(self.count)]
        if not all(map(len, self.at)):
            raise RecipeError(
                "paths.count: too few to have one at every knot; expected more, or film_share: 0"
            )

    def batch(self, step: int, rank: int, world: int) -> WindowBatch:
        """This process's share of the batch of `step`; knots are stratified over it."""
        size, generator = self.recipe.batch_size, draws(self.recipe.seed, step)
        strata = (torch.arange(size) + torch.rand((), generator=generator)) / size
        knots = (strata * self.count).long()
        luck = torch.rand(size, generator=generator).tolist()
        paths = [self.at[k][int(u * len(self.at[k]))] for k, u in zip(knots.tolist(), luck, strict=True)]
        return self._made(torch.stack(paths), knots, share(size, rank, world))

    def fixed_batch(self, pairs: Sequence[int], seed: int = 0) -> WindowBatch:
        """The pairs of path and knot of those numbers (path x knots + knot), for validation."""
        which = torch.tensor(list(pairs), dtype=torch.long)
        return self._made(which // self.count, which % self.count, slice(None))

    def _made(self, paths: Tensor, knots: Tensor, own: slice) -> WindowBatch:
        paths, knots = paths[own], knots[own]
        end = self.knots.end(knots)
        start = self.paths.states[paths, knots].float()
        target = window_target(start, self.paths.states[paths, end], knots, end, self.knots)
        text = self.text[0][self.text[1][paths]]
        windows = knots * self.knots.windows // self.count
        levels = (part[knots].float()[:, None, None, None] for part in (self.knots.alpha, self.knots.sigma))
        made = WindowBatch(start, target, self.knots.times[knots], text, windows, *levels)
        device = next(self.module.parameters()).device
        return WindowBatch(*(part.to(device) for part in made))

    def loss(self, player: str, batch: WindowBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of v and distance in power, with the error in the first and the last window as figures."""
        predicted = self.velocity(self.players[player], batch)
        error = (predicted - batch.target).square().mean((1, 2, 3))
        shown = (("noisy", 0), ("clean", self.knots.windows - 1))
        figures = {
            name: error.detach()[batch.windows == window].mean()
            for name, window in shown
            if (batch.windows == window).any()
        }
        if not self.power:
            return error.mean(), figures
        made, wanted = (
            (batch.alpha * batch.noisy - batch.sigma * v).flatten(0, 1)[:, None]
            for v in (predicted, batch.target)
        )
        distance = power_distance(made, wanted)
        return error.mean() + self.power * distance, figures | {"power": distance.detach()}

    def velocity(self, module: Callable[..., Any], batch: WindowBatch) -> Tensor:
        """What the student predicts, as v, (B, C, h, w)."""
        predicted: Tensor = module(batch.noisy, batch.timesteps, batch.text).float()
        return (
            predicted
            if self.prediction == "v_prediction"
            else (predicted - batch.sigma * batch.noisy) / batch.alpha
        )

    def errors(self, module: Callable[..., Any], batch: WindowBatch) -> Tensor:
        """Mean squared error of v of each state, (B,)."""
        return (self.velocity(module, batch) - batch.target).square().mean((1, 2, 3))


class Distill(FineTuning):
    """Draws the teacher's paths, then trains the student on them."""

    def prepare(self) -> TextToNoise:
        recipe, unet = self.recipe, self.base.unet
        self.teacher = copy.deepcopy(unet)
        self.knots = find_knots(make_scheduler(self.scheduler_config(), "ddim"), recipe.windows, recipe.knots)
        if recipe.rank is None:
            unet.requires_grad_(True)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(recipe.training.seed)
                inject(unet, recipe.targets, recipe.rank, recipe.alpha)
        return TextToNoise(unet, self.base.text_encoder, self.job.execution.compiled)

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "student": f"{self.recipe.windows} DDIM steps, guidance folded in (scale 1)",
            "teacher": f"{self.recipe.paths.teacher_steps} steps of {SOLVER}, guidance {self._guidance():g}",
        }

    def card(self) -> CheckpointCard:
        changes = {
            "guidance_scale": 1.0,
            "guidance_interval": (0.0, 1.0),
            "guidance_rescale": 0.0,
            "guidance_mean": 1.0,
            "noise_scale": 1.0,
            "num_inference_steps": self.recipe.windows,
            "scheduler": "ddim",
        }
        return super().card().model_copy(update=changes)

    def scheduler_config(self) -> dict[str, Any]:
        """That of the base for an adapter, which has none of its own; else one whose steps the windows fit."""
        config = super().scheduler_config()
        if self.recipe.rank is not None:
            return config
        ours = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
        return config | ours | {"_class_name": "DDIMScheduler"}

    def advance(self) -> Iterator[Progress]:
        recipe, device = self.recipe, self.job.accelerator.device
        self.base.vae.to(device)
        identity = self.identity(list(self.films.records))
        yield from self._draw_paths(identity)
        paths = read_paths(self._folder(identity), -(-recipe.paths.count // recipe.training.batch_size))
        self.module.to(device)
        out = set(films.held_out(self.films.records, recipe.validation, recipe.training.seed))
        train = [i for i, film in enumerate(paths.films.tolist()) if film not in out]
        route = WindowRoute(
            self.module,
            self.scheduler.config.prediction_type,
            self.knots,
            paths,
            self._read(paths),
            train,
            recipe.training,
            recipe.power,
        )
        checked = set(range(len(paths.texts))) - set(train)
        count = len(self.knots.times)
        pairs = [path * count + knot for path in sorted(checked) for knot in range(paths.begins[path], count)]
        training = self.training(route, recipe.training, self.state / recipe.route, identity)
        yield from self._train(training, route, pairs)
        training.leave("unet", self.module)
        self.end()

    def write(self) -> None:
        recipe = self.recipe
        if recipe.rank is None:
            save_as_saved(self.job.out, self.as_checkpoint())
            return
        factors = {"unet": config(recipe.targets, recipe.rank, recipe.alpha)}
        path = self.job.out / LORA
        write_adapter(
            self.job.out, self.card(), self.job.model, lambda: save_factors(path, self.module, factors)
        )

    def _draw_paths(self, identity: Mapping[str, Any]) -> Iterator[Progress]:
        """The paths that are not there yet, by the teacher in the precision of the training."""
        recipe, accelerator = self.recipe, self.job.accelerator
        halved = accelerator.mixed_precision == "bf16" or self.job.execution.half
        precision = torch.bfloat16 if halved else torch.float32
        place = {"device": accelerator.device, "dtype": precision}
        with quiet():
            teacher = replace(
                self.base,
                unet=self.teacher.to(**place, memory_format=torch.channels_last),
                text_encoder=copy.deepcopy(self.base.text_encoder).to(**place),
                scheduler_config=self.scheduler_config(),
                embeddings={},
            )
        settings = resolve(
            teacher,
            guidance_scale=self._guidance(),
            num_inference_steps=recipe.paths.teacher_steps,
            scheduler=SOLVER,
            image_size=self.size,
        )
        drawing = Teacher(
            teacher,
            settings,
            self.knots,
            recipe.paths,
            self._asked(),
            film_weights(self.films.records, recipe.training.balance),
            recipe.captions,
            recipe.training.batch_size,
            recipe.training.seed,
        )
        rank, world = accelerator.process_index, accelerator.num_processes
        for done in drawing.draw(self._folder(identity), self._latents(drawing.starts()), rank, world):
            yield Progress("paths", drawing.files, StepRecord(done, {}, 0.0))
        accelerator.wait_for_everyone()
        del self.teacher

    def _asked(self) -> list[Record]:
        """The films' records without labels of other findings than the recipe's: no path is spent on a text that names them."""
        wanted = self.recipe.findings
        return [
            replace(record, labels={name: value for name, value in record.labels.items() if name in wanted})
            for record in self.films.records
        ]

    def _latents(self, chosen: list[int]) -> dict[int, Tensor]:
        """Latents of some films' copies, (copies, C, h, w), encoded once."""
        if not chosen:
            return {}
        with self.job.accelerator.main_process_first():
            cached = latents.cache(
                self.state / "latents",
                self.films.pyramid[self.size * 3 // 2][chosen],
                self.size,
                self._encode,
                self._vae_digest(),
                self.recipe.augmentation,
                self.job.accelerator.device,
            )
        return dict(zip(chosen, cached, strict=True))

    def _folder(self, identity: Mapping[str, Any]) -> Path:
        """Named by a digest of all that the paths depend on; the length of the training is no part of it."""
        values = dict(identity["recipe"])
        training = {name: values["training"][name] for name in ("batch_size", "seed", "balance")}
        names = ("windows", "knots", "paths", "captions", "augmentation", "image_size")
        note = [identity["base"], identity["records"], identity["films"], training, self.size]
        text = json.dumps([*note, {name: values[name] for name in names}], sort_keys=True)
        return self.state / f"paths-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @torch.no_grad()
    def _read(self, paths: Paths) -> tuple[Tensor, Tensor]:
        """Embeddings of the paths' texts, each once, and the number of each path's."""
        names = list(dict.fromkeys(paths.texts))
        numbers = {text: number for number, text in enumerate(names)}
        whole: Checkpoint = replace(self.base, embeddings={})
        text = torch.cat([embed(whole, [name]).cpu() for name in names])
        return text, torch.tensor([numbers[text] for text in paths.texts])

    def _guidance(self) -> float:
        own = self.recipe.paths.guidance_scale
        return self.base.card.guidance_scale if own is None else own
