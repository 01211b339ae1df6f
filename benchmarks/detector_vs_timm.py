"""Training speed of a detector beside the loop of timm's train script, on the same drawn films.

    python benchmarks/detector_vs_timm.py [--arch densenet121] [--image-size 224] [--films 320] [--batch-size 16] [--steps 20]
        [--rounds 3] [--workers 2] [--device cpu|cuda] [--amp]

The script is not part of the installed timm, so its loop is built here, step for step, from the parts that it uses, at its own
defaults: `create_dataset` on an image folder, `create_loader` with its augmentation and workers, `create_optimizer_v2` (AdamW),
`CrossEntropyLoss`, `ModelEmaV3`; `--amp` is its mixed precision, bfloat16. Ours is `train_detector`, moving average included, in
the precision that it chooses. Rounds alternate; medians of a step, the first two of a round left out, and our last, which
validates.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import timm
import torch
from comparison import Comparison, draw_folders, parser, show
from detector_vs_plain import ticks
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

from synthaug.datasets import RealRadiographs
from synthaug.detection.films import hold
from synthaug.detection.train import TrainRecipe, train_detector


def timms(given: argparse.Namespace, films: Path) -> Iterator[None]:
    """Epoch after epoch of timm's loop; yields after each step."""
    size, device = (1, given.image_size, given.image_size), torch.device(given.device)
    model = timm.create_model(given.arch, num_classes=2, in_chans=1).to(device).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    average, criterion = ModelEmaV3(model, decay=0.9998), torch.nn.CrossEntropyLoss()
    loader = create_loader(
        create_dataset("", str(films), input_img_mode="L"),
        size,
        given.batch_size,
        is_training=True,
        mean=(0.5,),
        std=(0.25,),
        num_workers=given.workers,
        use_prefetcher=False,
        persistent_workers=given.workers > 0,
    )
    while True:
        for images, target in loader:
            images, target = images.to(device), target.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=given.amp):
                loss = criterion(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(model)
            loss.item()
            yield


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--arch", default="densenet121")
    given.add_argument("--image-size", type=int, default=224)
    given.add_argument("--films", type=int, default=320)
    given.add_argument("--batch-size", type=int, default=16)
    given.add_argument("--steps", type=int, default=20)
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--workers", type=int, default=2)
    given.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    given.add_argument("--amp", action="store_true", help="timm's loop in bfloat16")
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    ours: list[float] = []
    theirs: list[float] = []
    size, batch = given.image_size, given.batch_size
    with tempfile.TemporaryDirectory() as name:
        films = Path(name) / "films"
        draw_folders(films, given.films, 512)
        data = RealRadiographs(films, findings=["no_finding", "pleural_effusion"])
        held = hold(data, size, data.findings)
        few = replace(held.subset(range(batch)), patients=tuple(f"of validation {i}" for i in range(batch)))
        recipe = TrainRecipe(
            arch=given.arch,
            image_size=size,
            batch_size=batch,
            steps=given.steps + 1,
            validate_every=given.steps + 1,
            findings=tuple(data.findings),
        )
        for number in range(given.rounds):
            theirs.append(batch / median(ticks(timms(given, films), given.steps, time.perf_counter)))
            out = Path(name) / f"round-{number}"
            steps = train_detector(held, None, recipe, out, validation=few, device=given.device)
            ours.append(batch / median(ticks(steps, given.steps, time.perf_counter)))
    setting = (
        f"{given.arch}, {size} px, batch {batch}, {given.films} drawn films of 512 px, {given.device}, "
        f"{given.workers} workers for timm{', bf16 for both' if given.amp else ''}"
    )
    return [
        Comparison("detector training", "timm's train loop", "films/s", tuple(ours), tuple(theirs), setting)
    ]


if __name__ == "__main__":
    show(compare(arguments()))
