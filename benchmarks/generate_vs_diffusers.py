"""Images a second of `generate` and of a plain loop through diffusers: same checkpoint, in turn, one process.

    python benchmarks/generate_vs_diffusers.py [--model embedded] [--rounds 3] [--images 16]

The plain loop is what a user writes first: `StableDiffusionPipeline`, one prompt a call, 50 steps of the
scheduler that the checkpoint came with, guidance 7.5, `image.save` as PNG. Both run once before the clock
starts; loading is not counted on either side. Medians over the rounds. `--batch-size` tries another batch,
`--same-guidance` gives the plain loop the checkpoint's guidance scale instead of diffusers' own default.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from synthaug.diffusion import Checkpoint, load_checkpoint
from synthaug.generation import run
from synthaug.generation.plan import make_recipe


def ours(checkpoint: Checkpoint, label: str, count: int, batch_size: int | None, folder: Path) -> float:
    """Images a second of a whole run: memory probe, encoding, hashing, fsync and contact sheet included."""
    recipe = make_recipe([label], count, None, None, None, None).resolved(checkpoint)
    started = time.perf_counter()
    run(recipe, checkpoint, folder, batch_size)
    return count / (time.perf_counter() - started)


def plain(
    checkpoint: Checkpoint, prompt: str, count: int, steps: int, scale: float | None, folder: Path
) -> float:
    """Images a second of the loop of diffusers' own documentation."""
    pipeline = checkpoint.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    options = {} if scale is None else {"guidance_scale": scale}
    started = time.perf_counter()
    for index in range(count):
        image = pipeline(prompt, num_inference_steps=steps, **options).images[0]
        image.save(folder / f"{index}.png")
    return count / (time.perf_counter() - started)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--model", default="embedded")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--label", default="pleural_effusion")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--images", type=int, default=16)
    arguments.add_argument("--plain-images", type=int, default=2)
    arguments.add_argument("--plain-steps", type=int, default=50)
    arguments.add_argument("--batch-size", type=int, default=None)
    arguments.add_argument("--same-guidance", action="store_true")
    given = arguments.parse_args()
    checkpoint = load_checkpoint(given.model, device=given.device)
    prompt = make_recipe([given.label], 1, None, None, None, None).resolved(checkpoint).plan[0].prompt or ""
    scale = checkpoint.card.guidance_scale if given.same_guidance else None
    rates: dict[str, list[float]] = {"synthaug": [], "plain loop": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours(
            checkpoint,
            given.label,
            min(given.images, given.batch_size or 8),
            given.batch_size,
            folder / "warm",
        )
        plain(checkpoint, prompt, 1, 2, scale, folder)
        for number in range(given.rounds):
            rates["synthaug"].append(
                ours(checkpoint, given.label, given.images, given.batch_size, folder / f"round-{number}")
            )
            rates["plain loop"].append(
                plain(checkpoint, prompt, given.plain_images, given.plain_steps, scale, folder)
            )
    card = checkpoint.card
    print(f"checkpoint {checkpoint.name} {checkpoint.sha256[:8]}, {checkpoint.device}, {checkpoint.dtype}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.rounds} rounds")
    print(
        f"synthaug: {card.scheduler}, {card.num_inference_steps} steps, guidance {card.guidance_scale:g}",
        end=" ",
    )
    print(f"over {card.guidance_interval}; plain: {given.plain_steps} steps, guidance {scale or 7.5:g}")
    for name, values in rates.items():
        print(
            f"{name:>10}: {statistics.median(values):.3f} images/s ({min(values):.3f} to {max(values):.3f})"
        )
    print(
        f"{'ratio':>10}: {statistics.median(rates['synthaug']) / statistics.median(rates['plain loop']):.2f}"
    )


if __name__ == "__main__":
    main()
