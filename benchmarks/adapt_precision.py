"""Films a second of a training step under autocast, and with bfloat16 copies of float32 masters, in turns.

    OMP_NUM_THREADS=1 python benchmarks/adapt_precision.py [--model embedded] [--image-size 256] [--batch-size 16] [--rounds 5]
        [--compile]

U-Net and text encoder learn together on noise. Times are this process's own on the processor, so that other work on the
machine counts less; two steps of each are not timed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from synthaug.adaptation.denoising import TextToNoise
from synthaug.adaptation.masters import Masters, make_optimizer
from synthaug.diffusion import load_checkpoint


def learner(half: bool, given: argparse.Namespace) -> Callable[[], float]:
    """A function that takes one step and says how long it took, in seconds."""
    base = load_checkpoint(given.model, "cpu", "float32")
    for part in (base.unet, base.text_encoder):
        part.requires_grad_(True)
    module = TextToNoise(base.unet, base.text_encoder, given.compile)
    masters = Masters(module, half)
    weights = list(masters.weights.values())
    optimizer = make_optimizer("adamw", [{"params": weights}], 1e-5, (0.9, 0.99), 0.01)
    side = (given.image_size or base.image_size) // base.scale_factor
    shape = (given.batch_size, base.unet.config.in_channels, side, side)
    noisy, target = torch.randn(2, *shape)
    times = torch.randint(1000, (given.batch_size,))
    tokens = torch.randint(base.text_encoder.config.vocab_size, (given.batch_size, 32))

    def step() -> float:
        begun = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = module(noisy, times, tokens)
        (predicted.float() - target).square().mean().backward()
        masters.collect()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        masters.publish()
        return time.process_time() - begun

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()

    steps = {"autocast": learner(False, given), "bfloat16-weights": learner(True, given)}
    for step in (*steps.values(), *steps.values()):
        step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            taken[name].append(step())
    for name, seconds in taken.items():
        rates = sorted(given.batch_size / second for second in seconds)
        print(f"{name}: {statistics.median(rates):.1f} films/s ({rates[0]:.1f} to {rates[-1]:.1f})")
    ratios = [a / b for a, b in zip(*taken.values(), strict=True)]
    print(f"bfloat16-weights over autocast, median of the rounds: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
