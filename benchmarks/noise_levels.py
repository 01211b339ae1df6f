"""At which noise level a checkpoint loses the likeness of films: real films noised to a level and drawn back from there.

    python benchmarks/noise_levels.py --real NIH [--model embedded] [--level 0.07 --level 0.24 ...] [--count 96]
        [--part validation] [--finding pleural_effusion] [--scheduler NAME] [--out noise-levels]

COUNT real films of the part are encoded, noised to sigma / alpha = LEVEL and drawn back without guidance, each by its own label
and view (SDEdit, Meng et al. 2022, arXiv:2108.01073). What the autoencoder alone loses comes first; each level adds what the
network loses between it and the one below. KID and coverage (ImageNet features) beside the other real films of the part:
the level at which they fall is the one to train (`log_normal` in a recipe).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.diffusion.inversion import encode
from synthaug.diffusion.noise import generator, noise
from synthaug.diffusion.sampler import decode, embed, walk
from synthaug.diffusion.schedule import make_scheduler, quiet_numpy
from synthaug.diffusion.settings import resolve
from synthaug.evaluation.features import extractor, features
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.resemblance import resemblance
from synthaug.evaluation.results import Metric, Results, table
from synthaug.prompts import render

LEVELS = (0.07, 0.24, 0.8, 2.8, 9.4)
BATCH = 16
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--level", type=float, action="append")
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--finding", default="pleural_effusion")
    parser.add_argument("--scheduler")
    parser.add_argument("--out", type=Path, default=Path("noise-levels"))
    given = parser.parse_args()

    labels = (given.finding, "no_finding")
    real = real_part(RealRadiographs(given.real, min_age=18, findings=labels), given.part)[0]
    real = real.subset(np.flatnonzero((real.labels == 1).any(1)))
    order = np.random.default_rng(SEED).permutation(len(real))
    if len(order) < 2 * given.count:
        raise SystemExit(f"--count {given.count}: the part has {len(order)} films, half of which stay beside")
    drawn, beside = real.subset(order[: given.count]), real.subset(order[given.count :])
    checkpoint = load_checkpoint(given.model)
    settings = resolve(checkpoint, guidance_scale=1.0, scheduler=given.scheduler)
    network, cache = extractor("imagenet"), given.out / "features"
    beside_features = features(network, beside, cache)

    def owners(data: RealRadiographs) -> list[str]:
        return [patient or key for patient, key in zip(data.patients, data.keys, strict=True)]

    def compared(pixels: np.ndarray, arm: str) -> list[Metric]:
        found = resemblance(
            features(network, pixels, cache), owners(drawn), beside_features, owners(beside), arm=arm
        )
        print(arm, *(f"{m.name} {m.value:.3f}" for m in found if m.value is not None), flush=True)
        return found

    images = drawn.images_array(checkpoint.image_size, "squash")
    prompts = [
        render({name: 1.0 for name, value in zip(labels, row, strict=True) if value == 1}, view=view)
        for row, view in zip(drawn.labels, drawn.views, strict=True)
    ]
    latents, text = encode(checkpoint, images), embed(checkpoint, prompts)
    with quiet_numpy():
        scheduler = make_scheduler(checkpoint.scheduler_config, settings.scheduler)
        scheduler.set_timesteps(settings.num_inference_steps)
    levels = scheduler.sigmas[:-1].log()
    metrics = compared(images, "real") + compared(decode(checkpoint, latents), "autoencoder")
    for level in given.level or LEVELS:
        begin = int((levels - np.log(level)).abs().argmin())
        sigma = float(scheduler.sigmas[begin])
        alpha = 1 / (sigma**2 + 1) ** 0.5
        films = []
        for start in range(0, given.count, BATCH):
            rows = range(start, min(start + BATCH, given.count))
            noises = torch.stack([noise(SEED, index, tuple(latents.shape[1:])) for index in rows])
            noisy = alpha * latents[start : rows.stop] + alpha * sigma * noises.to(latents.device)
            steps = [generator(SEED, index, "steps") for index in rows]
            own = text[start : rows.stop]
            with torch.inference_mode(), quiet_numpy():
                *_, last = walk(checkpoint, noisy, own, own, settings, steps, begin)
            films.append(decode(checkpoint, last))
        metrics += compared(np.concatenate(films), f"drawn back from {sigma:.2f}")
    protocol = (
        f"{given.count} real films of part {given.part} noised and drawn back; {len(beside)} others beside"
    )
    results = Results(kind="evaluate", protocol=protocol, settings={"model": given.model}, metrics=metrics)
    results.write(given.out)
    print(f"{protocol}\n\n{table(metrics)}")


if __name__ == "__main__":
    main()
