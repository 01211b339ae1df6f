"""Images a second of `generate` and of a plain loop through diffusers: same checkpoint, in turn, one process.

    python benchmarks/generate_vs_diffusers.py [--model embedded | --sd15] [--rounds 3] [--images 16] [--plain-batch 1 4 8]

The plain loop is what a user writes first: `StableDiffusionPipeline`, one prompt a call, 50 steps of the
scheduler that the checkpoint came with, guidance 7.5, `image.save` as PNG. Both run once before the clock
starts; loading is not counted on either side. Medians over the rounds. `--batch-size` tries another batch,
`--same-guidance` gives the plain loop the checkpoint's guidance scale instead of diffusers' own default. With
`--plain-batch` the peer draws so many images a call, and the best of several batches counts.
"""

import argparse
import tempfile
import time
from pathlib import Path

import adapt_vs_diffusers
import torch
from comparison import Comparison, parser, show

from synthaug.diffusion import Checkpoint, CheckpointCard, load_checkpoint
from synthaug.diffusion.device import choose_device, choose_dtype, dtype_name
from synthaug.generation import run
from synthaug.generation.plan import make_recipe


def sd15(device: str) -> Checkpoint:
    """Stable Diffusion 1.5 at true size with random weights; nothing is downloaded."""
    parts, place = adapt_vs_diffusers.sd15(), choose_device(device)
    scheduler = parts["scheduler"]
    card = CheckpointCard(
        findings=("pleural_effusion",), image_size=512, route="random", num_inference_steps=25
    )
    checkpoint = Checkpoint(
        parts["unet"].eval(),
        parts["vae"].eval(),
        parts["text"].eval(),
        parts["tokenizer"],
        {**scheduler.config, "_class_name": type(scheduler).__name__},
        card,
        "sd15-random",
        "0" * 64,
    )
    return checkpoint.to(place, choose_dtype(place), memory_format=torch.channels_last)


def ours(checkpoint: Checkpoint, label: str, count: int, batch_size: int | None, folder: Path) -> float:
    """Images a second of a whole run: memory probe, encoding, hashing, fsync and contact sheet included."""
    recipe = make_recipe([label], count).resolved(checkpoint)
    started = time.perf_counter()
    run(recipe, checkpoint, folder, batch_size)
    return count / (time.perf_counter() - started)


def plain(
    checkpoint: Checkpoint, prompt: str, calls: int, batch: int, steps: int, scale: float | None, folder: Path
) -> float:
    """Images a second of the loop of diffusers' own documentation, `batch` images a call."""
    pipeline = checkpoint.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    options = {} if scale is None else {"guidance_scale": scale}
    started = time.perf_counter()
    for call in range(calls):
        drawn = pipeline([prompt] * batch, num_inference_steps=steps, **options).images
        for number, image in enumerate(drawn):
            image.save(folder / f"{call}-{number}.png")
    return calls * batch / (time.perf_counter() - started)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--model", default="embedded")
    given.add_argument(
        "--sd15", action="store_true", help="Stable Diffusion 1.5's size, random weights, 512 px"
    )
    given.add_argument("--device", default="auto")
    given.add_argument("--label", default="pleural_effusion")
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--images", type=int, default=16)
    given.add_argument("--plain-images", type=int, default=2)
    given.add_argument("--plain-batch", type=int, nargs="+", default=[1])
    given.add_argument("--plain-steps", type=int, default=50)
    given.add_argument("--batch-size", type=int, default=None)
    given.add_argument("--same-guidance", action="store_true")
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    checkpoint = sd15(given.device) if given.sd15 else load_checkpoint(given.model, device=given.device)
    prompt = make_recipe([given.label], 1).resolved(checkpoint).plan[0].prompt or ""
    card = checkpoint.card
    scale = card.guidance_scale if given.same_guidance else None
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
        plain(checkpoint, prompt, 1, 1, 2, scale, folder)
        for number in range(given.rounds):
            rates["synthaug"].append(
                ours(checkpoint, given.label, given.images, given.batch_size, folder / f"round-{number}")
            )
            found = {}
            for batch in given.plain_batch:
                calls = -(-given.plain_images // batch)
                found[batch] = plain(checkpoint, prompt, calls, batch, given.plain_steps, scale, folder)
            best = max(found, key=found.__getitem__)
            rates["plain loop"].append(found[best])
    setting = (
        f"{checkpoint.name}, {card.image_size} px, {checkpoint.device}, {dtype_name(checkpoint.dtype)}: "
        f"{card.num_inference_steps} steps of {card.scheduler}, guidance {card.guidance_scale:g}, beside "
        f"{given.plain_steps} steps, guidance {scale or 7.5:g}"
        + (
            f", the best of {' '.join(map(str, given.plain_batch))} images a call"
            if given.plain_batch != [1]
            else ""
        )
    )
    fast, slow = tuple(rates["synthaug"]), tuple(rates["plain loop"])
    return [Comparison("generate", "diffusers pipeline", "films/s", fast, slow, setting)]


if __name__ == "__main__":
    show(compare(arguments()))
