"""Memory of a process that trains a U-Net: alone, beside others that hold the same (DDP) or the rest of it (FSDP).

    python benchmarks/sharding.py [--widths 320 640 1280 1280] [--processes 2] [--latents 64] [--batch-size 4] [--steps 3]
                                  [--device auto|cpu|cuda] [--ways alone ddp fsdp]

The widths are Stable Diffusion 1.5's; weights are random. Steps and the saving of the state are measured apart, each as the most
that a process held then: of its GPU, or of memory where there is none (Linux), which holds the libraries too ("imports"). There,
what a tensor frees is given back at once, or it would still be counted.
"""

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = {"alone": {}, "ddp": {}, "fsdp": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}}
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
GB = 1e9


class Peak:
    """The most bytes held since it was made."""

    def __init__(self, device: Any):
        import torch

        gc.collect()
        self.cuda = torch.cuda if device.type == "cuda" else None
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        if self.cuda:
            return int(self.cuda.max_memory_allocated())
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return 1024 * int(found[1]) if found else 0


def child(arguments: argparse.Namespace, folder: Path) -> None:
    """One process: train, save, and write what it held."""
    import torch
    from diffusers import UNet2DConditionModel
    from torch import nn

    from synthaug.adaptation.batches import draws, share
    from synthaug.adaptation.denoising import TextToNoise
    from synthaug.adaptation.loop import STATE, LoopRecipe, Training
    from synthaug.adaptation.route import Execution
    from synthaug.adaptation.sharding import requested

    execution = Execution(arguments.device)
    accelerator = execution.accelerator()
    imports = Peak(accelerator.device).bytes()
    torch.manual_seed(0)
    levels = len(arguments.widths)
    unet = UNet2DConditionModel(
        sample_size=arguments.latents,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        block_out_channels=tuple(arguments.widths),
        cross_attention_dim=768,
    )
    module = TextToNoise(unet, nn.Identity())
    recipe = LoopRecipe(steps=arguments.steps, batch_size=arguments.batch_size, learning_rate=1e-5)

    class Noise:
        def __init__(self) -> None:
            self.players: dict[str, nn.Module] = {"unet": module}

        def batch(self, step: int, rank: int, world: int) -> torch.Tensor:
            shape = (recipe.batch_size, 4, arguments.latents, arguments.latents)
            drawn = torch.randn(shape, generator=draws(0, step))
            return drawn[share(recipe.batch_size, rank, world)].to(accelerator.device)

        def loss(self, player: str, batch: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
            times = torch.full((len(batch),), 500, device=batch.device)
            text = torch.zeros(len(batch), 77, 768, device=batch.device)
            return (self.players[player](batch, times, text) - batch).square().mean(), {}

    training = Training(Noise(), recipe, folder / "state", {}, accelerator, sharded=requested())
    steps = training.run(save_every=arguments.steps + 1, until=arguments.steps)
    next(steps)  # makes the moments
    learning, clock = Peak(accelerator.device), time.perf_counter()
    for _ in range(arguments.steps - 2):
        next(steps)
    seconds = (time.perf_counter() - clock) / max(1, arguments.steps - 2)
    held = learning.bytes()
    saving = Peak(accelerator.device)
    training.save()
    facts = {
        "rank": accelerator.process_index,
        "parameters": sum(p.numel() for p in unet.parameters()),
        "state": (folder / "state" / STATE).stat().st_size if accelerator.is_main_process else None,
        "imports": imports,
        "steps": held,
        "saving": saving.bytes(),
        "seconds": seconds,
        "device": str(accelerator.device),
    }
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(facts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[320, 640, 1280, 1280])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments, arguments.child)
        return
    for way in arguments.ways:
        world = 1 if way == "alone" else arguments.processes
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(world)] if world > 1 else []
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, *launcher, *sys.argv, "--child", folder]
            subprocess.run(command, check=True, env={**os.environ, **GIVEN_BACK, **WAYS[way]})
            for rank in range(world):
                fact = json.loads((Path(folder) / f"{rank}.json").read_text())
                print(
                    f"{way}, process {rank} on {fact['device']}: {fact['parameters'] / 1e6:.0f} million parameters; "
                    f"imports {fact['imports'] / GB:.2f} GB, steps {fact['steps'] / GB:.2f} GB, "
                    f"saving {fact['saving'] / GB:.2f} GB, {fact['seconds']:.2f} s a step"
                    + (f", state {fact['state'] / GB:.2f} GB" if fact["state"] else ""),
                    flush=True,
                )


if __name__ == "__main__":
    main()
