"""A short training of the tiny U-Net on drawn latents, alone or as one of the processes that a test starts.

Run as a program it is such a process, cut as its environment says: `noise_training.py FOLDER`.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tiny_checkpoint import LATENTS, tiny_parts
from torch import Tensor

from synthaug.adaptation.batches import draws, share
from synthaug.adaptation.denoising import TextToNoise
from synthaug.adaptation.loop import STATE, LoopRecipe, Training
from synthaug.adaptation.route import Execution
from synthaug.adaptation.sharding import own, requested

RECIPE = LoopRecipe(steps=6, batch_size=8, learning_rate=1e-3, warmup=2, ema=0.5, clip=0.05)
CUT = 3  # step at which a state goes over to other processes
WEIGHTS = "weights.safetensors"


class Drawn(NamedTuple):
    """Latents, timesteps and what is to be predicted."""

    latents: Tensor
    timesteps: Tensor
    target: Tensor


class Noise:
    """The tiny U-Net learns to predict given numbers; its text encoder is frozen."""

    def __init__(self) -> None:
        parts = tiny_parts()
        self.module = TextToNoise(parts["unet"], parts["text_encoder"].requires_grad_(False))
        self.players: dict[str, torch.nn.Module] = {"unet": self.module}

    def batch(self, step: int, rank: int, world: int) -> Drawn:
        size, generator = RECIPE.batch_size, draws(7, step)
        shape = (size, LATENTS, 8, 8)
        noise, target = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        times = torch.randint(1000, (size,), generator=generator)
        return Drawn(*(part[share(size, rank, world)] for part in (noise, times, target)))

    def loss(self, player: str, batch: Drawn, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.error(self.players[player], batch), {}

    def error(self, module: torch.nn.Module, batch: Drawn) -> Tensor:
        text = torch.ones(len(batch.timesteps), 5, 16)
        return (module(batch.latents, batch.timesteps, text) - batch.target).square().mean()


def start(folder: Path, micro_batch: int | None = None) -> Training:
    """The training, from the state in `folder` if there is one."""
    execution = Execution("cpu", "float32")
    return Training(
        Noise(),
        RECIPE,
        folder,
        {},
        execution.accelerator(),
        micro_batch=micro_batch,
        sharded=requested(),
    )


@torch.no_grad()
def averaged_error(training: Training) -> float:
    """Error of the moving average on a batch that is not learnt from, the same in every process."""
    with training.swapped("unet"):
        return float(training.route.error(training.route.module, training.route.batch(100, 0, 1)))


def held(training: Training) -> dict[str, int]:
    """Numbers that this process holds of each kind."""
    weights, optimizer = training.masters["unet"].weights, training.optimizers["unet"]
    moments = [optimizer.state[p][kind] for p in weights.values() for kind in ("exp_avg", "exp_avg_sq")]
    kinds: dict[str, Any] = {"weights": weights.values(), "averages": training.averages["unet"].values()}
    return {
        kind: sum(own(value).numel() for value in values)
        for kind, values in {**kinds, "moments": moments}.items()
    }


def main(folder: Path) -> None:
    """Train from nothing, and with freed blocks on from the state that one process left in FOLDER/handed."""
    training = start(folder / "cut", micro_batch=3)
    main = training.accelerator.is_main_process
    list(training.run(save_every=CUT, until=CUT))
    if main:
        (folder / "back").mkdir()
        shutil.copy(folder / "cut" / STATE, folder / "back" / STATE)
    errors = [averaged_error(training)]
    list(training.run(save_every=CUT))
    errors.append(averaged_error(training))
    facts = {"errors": errors, "held": held(training)}
    (folder / f"{training.accelerator.process_index}.json").write_text(json.dumps(facts))
    module = training.route.module
    training.leave("unet", module)
    if main:
        assert type(module.unet).__name__ == "UNet2DConditionModel"
        save_file(module.unet.state_dict(), folder / WEIGHTS)
    os.environ["FSDP_SHARDING_STRATEGY"] = "FULL_SHARD"
    list(start(folder / "handed").run(save_every=CUT))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
