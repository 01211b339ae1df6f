"""A teacher whose ODE is solved on paper, and the paths that it draws."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny_checkpoint import LATENTS, SIZE
from torch import Tensor, nn

from synthaug.adaptation.captions import CaptionRecipe
from synthaug.adaptation.distill import find_knots
from synthaug.adaptation.teacher_paths import Knots, Paths, PathsRecipe, Teacher, read_paths
from synthaug.diffusion import Checkpoint, resolve
from synthaug.diffusion.schedule import make_scheduler
from synthaug.record import Record

SHAPE = (LATENTS, SIZE // 4, SIZE // 4)
SPREAD = 0.5  # standard deviation of the data that the teacher on paper knows


class OnPaper(nn.Module):
    """The perfect network for latents N(0, SPREAD^2): x = alpha c^2 z / (alpha^2 c^2 + sigma^2), as v."""

    def __init__(self, alphas_cumprod: Tensor):
        super().__init__()
        self.alphas, self.one = alphas_cumprod.double(), nn.Parameter(torch.ones(()))

    @property
    def config(self) -> object:
        return type("Config", (), {"in_channels": LATENTS})

    def forward(self, z: Tensor, time: Tensor, encoder_hidden_states: Tensor, **_: object) -> tuple[Tensor]:
        alpha2 = float(self.alphas[int(time)])
        clean = alpha2**0.5 * SPREAD**2 / (alpha2 * SPREAD**2 + 1 - alpha2)
        return (z * ((alpha2**0.5 - clean) / (1 - alpha2) ** 0.5),)


def growth(knots: Knots, t: int, s: int) -> float:
    """z_s / z_t along the probability flow of N(0, SPREAD^2): the square root of the ratio of the variances."""
    variance = knots.alpha**2 * SPREAD**2 + knots.sigma**2
    return float((variance[s] / variance[t]).sqrt())


def drawn(
    tiny: Checkpoint, folder: Path, share: float, steps: int = 200, windows: int = 4
) -> tuple[Knots, Paths]:
    """Paths of the teacher on paper."""
    config = tiny.scheduler_config
    ddim = make_scheduler(config, "ddim")
    knots = find_knots(ddim, windows, 2)
    teacher = replace(tiny, unet=OnPaper(ddim.alphas_cumprod), embeddings={})
    settings = resolve(
        teacher, guidance_scale=3.0, num_inference_steps=steps, scheduler="dpmsolver++", image_size=SIZE
    )
    recipe = PathsRecipe(count=48, teacher_steps=steps, film_share=share)
    records = [Record(str(i), {"edema": float(i)}, view="AP") for i in range(2)]
    films = {i: torch.full((1, *SHAPE), 10.0 * i).half() for i in range(2)}
    drawing = Teacher(
        teacher, settings, knots, recipe, records, torch.ones(2).double(), CaptionRecipe(), 16, 0
    )
    assert list(drawing.draw(folder, films)) == [1, 2, 3]
    return knots, read_paths(folder, 3)
