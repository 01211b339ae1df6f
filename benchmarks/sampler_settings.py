"""What steps and guidance cost and give: label fidelity and resemblance of the same noises drawn with other settings.

    python benchmarks/sampler_settings.py --real NIH [--setting 20:3 --setting 50:7.5 --setting 20:3/2 --setting 4:1@STUDENT ...]
        [--count 100] [--part validation] [--finding pleural_effusion] [--model embedded] [--detector embedded]
        [--extractor imagenet] [--out sampler-settings]

A setting is STEPS:GUIDANCE, with ,FROM-TO for guidance in this part of the steps only (0 is the noisy end), /N for coarse
features at every N-th step only, and @MODEL for another checkpoint than --model (a student of few steps, with the scheduler of
its card), in this order: 40:8,0.1-0.8/2@STUDENT. The first is what the others are compared with, by default the
checkpoint's own beside the 50 steps and the guidance 7.5 of diffusers' pipeline. Each draws COUNT films with the finding and
COUNT without, noises not shared between the two (the same command resumes). Prints, setting by setting: accuracy and AUROC of the
detector, shuffled labels as the control; KID, coverage and density beside real films of the part, with their floors
between real films at the same number; and how far each film is from the same noise drawn with the
first setting, in grey levels. Choices are made on the part `validation`. `synthaug report OUT` draws fidelity beside
coverage over guidance; `synthaug evaluate --controls` does the same with the noises of films that are there.
"""

import argparse
import re
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection import load_detector
from synthaug.diffusion import load_checkpoint
from synthaug.evaluation.features import extractor, features
from synthaug.evaluation.label_fidelity import label_fidelity, noise_clusters
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.resemblance import resemblance
from synthaug.evaluation.results import Metric, Results, table
from synthaug.generation import generate
from synthaug.generation.plan import make_recipe

SIZE = 256


class Setting(NamedTuple):
    """One way to draw; `text` is how it was asked for, `arm` in words."""

    text: str
    arm: str
    steps: int
    scale: float
    guided: tuple[float, float] | None
    feature_interval: int
    model: str


def parsed(text: str, model: str) -> Setting:
    """STEPS:GUIDANCE[,FROM-TO][/N][@MODEL]; without FROM-TO, where the checkpoint says.

    Raises:
        SystemExit: something else.
    """
    found = re.fullmatch(r"(\d+):([\d.]+)(?:,([\d.]+)-([\d.]+))?(?:/(\d+))?(?:@(.+))?", text)
    if found is None:
        raise SystemExit(f"--setting {text}: expected STEPS:GUIDANCE[,FROM-TO][/N][@MODEL]")
    steps, scale, begin, end, interval, other = found.groups()
    guided = (float(begin), float(end)) if begin else None
    words = [
        f"{steps} steps",
        f"guided from {begin} to {end}" if begin else "",
        f"features /{interval}" if interval else "",
    ]
    words += [other or "", f"guidance {float(scale):g}"]
    arm = ", ".join(filter(None, words))
    return Setting(text, arm, int(steps), float(scale), guided, int(interval or 1), other or model)


def settings_of(texts: list[str] | None, model: str) -> list[Setting]:
    """The settings of the command line, or the default ones."""
    card = load_checkpoint(model).card
    own = f"{card.num_inference_steps}:{card.guidance_scale:g}"
    return [parsed(text, model) for text in texts or [own, f"50:{card.guidance_scale:g}", "50:7.5"]]


def drawn(setting: Setting, label: str, count: int, seed: int, out: Path) -> float:
    """Draw or resume the films of one label; seconds that it took."""
    how = {"num_inference_steps": setting.steps, "guidance_scale": setting.scale, "seed": seed}
    how |= {"feature_interval": setting.feature_interval, "guidance_interval": setting.guided}
    begun = time.perf_counter()
    generate(recipe=make_recipe([label], count, **how), model=setting.model, out=out)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True)
    parser.add_argument("--setting", action="append")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--finding", default="pleural_effusion")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--detector", default="embedded")
    parser.add_argument("--extractor", default="imagenet")
    parser.add_argument("--out", type=Path, default=Path("sampler-settings"))
    given = parser.parse_args()

    labels = (given.finding, "no_finding")
    real = real_part(RealRadiographs(given.real, min_age=18, findings=labels), given.part)[0]
    real = real.subset(np.flatnonzero((real.labels == 1).any(1)))
    judge, network = load_detector(given.detector, device="auto"), extractor(given.extractor)
    cache = given.out / "features"
    real_features = features(network, real, cache)
    owners = [patient or key for patient, key in zip(real.patients, real.keys, strict=True)]
    first: np.ndarray | None = None
    metrics: list[Metric] = []
    for setting in settings_of(given.setting, given.model):
        arm, folders, seconds = setting.arm, [], 0.0
        for seed, label in enumerate(labels):
            out = given.out / f"{re.sub(r'[^0-9A-Za-z.]+', '-', setting.text)}-{label}"
            seconds += drawn(setting, label, given.count, seed, out)
            folders.append(SyntheticRadiographs(out, findings=labels))
        metrics += label_fidelity(judge, folders, given.finding, arm)
        clusters = [cluster for films in folders for cluster in noise_clusters(films)]
        pixels = np.concatenate([films.images_array(SIZE, "squash") for films in folders])
        metrics += resemblance(features(network, pixels, cache), clusters, real_features, owners, arm=arm)
        first = pixels if first is None else first
        apart = np.abs(pixels.astype(float) - first).mean((1, 2, 3))
        spread = pixels.std((1, 2, 3))
        metrics.append(
            Metric(
                name="standard deviation, grey levels", arm=arm, value=float(np.median(spread)), n=len(spread)
            )
        )
        print(f"{arm}: {seconds:.1f} s for {len(pixels)} films, starts included", flush=True)
        metrics.append(
            Metric(name="grey levels from the first setting", arm=arm, value=apart.mean(), n=len(apart))
        )
    protocol = f"{given.count} + {given.count} films a setting, no gate; real films of part {given.part}"
    results = Results(kind="evaluate", protocol=protocol, settings={"model": given.model}, metrics=metrics)
    results.write(given.out)
    print(f"{protocol}\n\n{table(metrics)}")


if __name__ == "__main__":
    main()
