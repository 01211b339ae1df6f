"""Training speed of a detector against a plain PyTorch loop over the same image files.

    python benchmarks/detector_vs_plain.py --data NIH --arch densenet121 --image-size 224 --steps 20

Plain: fp32, NCHW, every film opened by Pillow, resized and augmented film by film with torchvision in each step, AdamW, no
moving average. Ours: `train_detector`, moving average included. The same network, image size and batch size. Rounds alternate;
the medians of a step are compared, the first two steps of a round left out, and so is the last of ours, which validates.
Decoding, which ours does once for all films, is printed beside it: after so many steps it is paid back.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import timm
import torch
from comparison import Comparison, draw_folders, parser, show
from PIL import Image
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.transforms import v2

from synthaug.datasets import RealRadiographs
from synthaug.detection.augment import Augmentation
from synthaug.detection.detector import uses_bf16
from synthaug.detection.films import hold
from synthaug.detection.train import TrainRecipe, train_detector
from synthaug.diffusion.device import choose_device

SKIPPED = 2


def plain(
    paths: list[Path], labels: torch.Tensor, arch: str, size: int, batch: int, device: torch.device
) -> Iterator[None]:
    """The plain loop; yields after each step."""
    rule = Augmentation()
    look = v2.Compose(
        [
            v2.Resize(size),
            v2.CenterCrop(size),
            v2.RandomAffine(rule.rotation, (rule.shift, rule.shift), rule.scale),
            v2.ColorJitter(rule.brightness, rule.contrast),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5], [0.25]),
        ]
    )
    network = timm.create_model(arch, in_chans=1, num_classes=labels.shape[1]).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    while True:
        chosen = torch.randint(len(paths), (batch,), generator=generator).tolist()
        images = torch.stack([look(Image.open(paths[i]).convert("L")) for i in chosen]).to(device)
        loss = binary_cross_entropy_with_logits(network(images), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        yield


def ticks(steps: Iterator[object], count: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each of `count` steps, the first `SKIPPED` left out."""
    times, before = [], clock()
    for _, _ in zip(range(count), steps, strict=False):
        now = clock()
        times.append(now - before)
        before = now
    return times[SKIPPED:]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--data", type=Path, help="a folder of real films; drawn ones of 512 px without it")
    given.add_argument("--arch", default="densenet121")
    given.add_argument("--image-size", type=int, default=224)
    given.add_argument("--batch-size", type=int, default=16)
    given.add_argument("--films", type=int, default=200, help="how many of them are used")
    given.add_argument("--steps", type=int, default=20)
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--device", default="auto")
    given.add_argument(
        "--processor-time", action="store_true", help="on a busy machine: time that others do not take"
    )
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    if given.data is not None:
        return _compare(given, given.data)
    with tempfile.TemporaryDirectory() as name:
        draw_folders(Path(name), given.films, 512)
        return _compare(given, Path(name))


def _compare(given: argparse.Namespace, data: Path) -> list[Comparison]:
    clock = time.process_time if given.processor_time else time.perf_counter
    device, size, batch = choose_device(given.device), given.image_size, given.batch_size
    films = RealRadiographs(data, findings=["pleural_effusion"])
    known = [i for i, label in enumerate(films.labels[:, 0]) if label == label][: given.films]
    films = films.subset(known)
    paths, labels = [Path(film.path) for film in films.films], torch.from_numpy(films.labels)
    start = clock()
    held = hold(films, size, films.findings)
    decoding = clock() - start
    # One patient may not be on both sides; nothing is asked of these films but that they are there.
    few = replace(held.subset(range(batch)), patients=tuple(f"of validation {i}" for i in range(batch)))
    recipe = TrainRecipe(
        arch=given.arch,
        image_size=size,
        batch_size=batch,
        steps=given.steps + 1,
        validate_every=given.steps + 1,
        findings=("pleural_effusion",),
    )
    theirs: list[float] = []
    ours: list[float] = []
    for _ in range(given.rounds):
        theirs.append(
            batch / median(ticks(plain(paths, labels, given.arch, size, batch, device), given.steps, clock))
        )
        with tempfile.TemporaryDirectory() as out:
            steps = train_detector(held, None, recipe, out, validation=few, device=given.device)
            ours.append(batch / median(ticks(steps, given.steps, clock)))
    mixed = uses_bf16(timm.create_model(given.arch), device)
    kind = "drawn films" if given.data is None else "real films"
    setting = (
        f"{given.arch}, {size} px, batch {batch}, {kind}, {device}, {torch.get_num_threads()} threads, "
        f"{'processor' if given.processor_time else 'wall'} time, {'bf16' if mixed else 'fp32'} beside fp32"
    )
    notes = {"decoding": f"{decoding:.2f} s for {len(held)} films, once"}
    return [
        Comparison("detector training", "a plain loop", "films/s", tuple(ours), tuple(theirs), setting, notes)
    ]


if __name__ == "__main__":
    show(compare(arguments()))
