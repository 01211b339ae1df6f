"""Training speed of a detector against a plain PyTorch loop over the same image files.

    python benchmarks/detector_vs_plain.py --data NIH --arch densenet121 --image-size 224 --steps 20

Plain: fp32, NCHW, every film opened by Pillow, resized and augmented film by film with torchvision in each step, AdamW, no
average. Ours: `train_detector`, decoding included once for all films, its moving average and one validation at the end. The
same network, image size, batch size and number of steps; rounds alternate, medians are compared. Prints films/s of both,
the share of decoding in ours, and the ratio at this many steps and for a long run, where decoding no longer counts.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import timm
import torch
from PIL import Image
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.transforms import v2

from synthaug.datasets import RealRadiographs
from synthaug.detection.augment import Augmentation
from synthaug.detection.detector import has_bf16
from synthaug.detection.films import hold
from synthaug.detection.train import TrainRecipe, train_detector
from synthaug.diffusion.device import choose_device


def plain(
    paths: list[Path],
    labels: torch.Tensor,
    arch: str,
    size: int,
    batch: int,
    steps: int,
    device: torch.device,
) -> float:
    """Seconds of the plain loop."""
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
    start = time.perf_counter()
    for _ in range(steps):
        chosen = torch.randint(len(paths), (batch,), generator=generator).tolist()
        images = torch.stack([look(Image.open(paths[i]).convert("L")) for i in chosen]).to(device)
        loss = binary_cross_entropy_with_logits(network(images), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()
    return time.perf_counter() - start


def ours(
    films: RealRadiographs, arch: str, size: int, batch: int, steps: int, device: str
) -> tuple[float, float]:
    """Seconds of `train_detector`, and how many of them went into decoding."""
    recipe = TrainRecipe(
        arch=arch,
        image_size=size,
        batch_size=batch,
        steps=steps,
        validate_every=steps,
        findings=("pleural_effusion",),
    )
    start = time.perf_counter()
    held = hold(films, size, recipe.findings)
    decoded = time.perf_counter() - start
    # The films to validate on cost time, and nothing else is asked of them here; one patient may not be on both sides.
    few = replace(held.subset(range(batch)), patients=tuple(f"of validation {i}" for i in range(batch)))
    with tempfile.TemporaryDirectory() as out:
        for _ in train_detector(held, None, recipe, out, validation=few, device=device):
            pass
    return time.perf_counter() - start, decoded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder of real films")
    parser.add_argument("--arch", default="densenet121")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--films", type=int, default=200, help="how many of them are used")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = choose_device(given.device)
    films = RealRadiographs(given.data, findings=["pleural_effusion"])
    known = [i for i, label in enumerate(films.labels[:, 0]) if label == label][: given.films]
    films = films.subset(known)
    paths, labels = [Path(film.path) for film in films.films], torch.from_numpy(films.labels)
    times: dict[str, list[float]] = {"plain": [], "ours": [], "decoding": []}
    for _ in range(given.rounds):
        size, batch, steps = given.image_size, given.batch_size, given.steps
        times["plain"].append(plain(paths, labels, given.arch, size, batch, steps, device))
        whole, decoded = ours(films, given.arch, size, batch, steps, given.device)
        times["ours"].append(whole)
        times["decoding"].append(decoded)
    seen = given.steps * given.batch_size
    middle = {name: median(values) for name, values in times.items()}
    print(
        f"{given.arch}, {given.image_size} px, batch {given.batch_size}, {given.steps} steps, {given.rounds} rounds,"
    )
    print(
        f"{device}, {torch.get_num_threads()} threads, bf16 {'on' if has_bf16(device) else 'off'} in ours, fp32 in plain"
    )
    print(f"plain      {seen / middle['plain']:8.2f} films/s")
    print(
        f"ours       {seen / middle['ours']:8.2f} films/s, {middle['decoding']:.1f} s of {middle['ours']:.1f} s decoding"
    )
    print(f"ratio      {middle['plain'] / middle['ours']:8.2f} at {given.steps} steps")
    print(
        f"long run   {middle['plain'] / (middle['ours'] - middle['decoding']):8.2f} without the decoding, done once"
    )


if __name__ == "__main__":
    main()
