"""Do view, sex and age in a prompt steer the film? Asked of detectors of those, trained on real films.

    python benchmarks/steering.py --real NIH [--model embedded] [--count 200] [--extractor imagenet] [--out steering]

Three contrasts: view PA / AP, sex F / M, age under 40 / 60 and over. Each has a linear head on frozen ImageNet features of
several depths (EfficientNet-Lite0), fitted on real films of part `detector`, both sides weighed equally, penalty by
cross-validation over patients. Its AUROC on real films of part `validation` is the ceiling. The synthetic films are one run
(the same command resumes): every combination of view, sex, age (30s, 70s) and finding in equal numbers, COUNT films on each side
of each contrast, no two of one noise. So two sides of a contrast differ in that part of the prompt alone, and a finding that
goes with it in real films cannot help.

Accuracy calls a film at the head's own half (equal odds). It asks for more than AUROC does: that synthetic films score where
real ones do.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from synthaug.benchmark.frozen import open_extractor
from synthaug.benchmark.material import real_parts
from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection.detector import Detector, DetectorConfig, build_detector
from synthaug.detection.linear import choose_strength
from synthaug.detection.logistic import fit_logistic
from synthaug.detection.predict import extract
from synthaug.diffusion import load_checkpoint
from synthaug.diffusion.device import choose_device
from synthaug.errors import DataError
from synthaug.evaluation.label_fidelity import Scored, fidelity_metrics, noise_clusters
from synthaug.evaluation.results import Metric, table
from synthaug.generation import generate
from synthaug.generation.plan import GenerateRecipe, PlanEntry
from synthaug.shards import atomic_write

SIZE, STRENGTHS = 224, (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
YOUNG, OLD = 35.0, 75.0  # of the prompts: "30s", "70s"
LEAST = 20  # films a side, to fit a head


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two sides of a prompt: `side` tells 1 or 0 of a film, NaN of one that is on neither."""

    name: str
    sides: tuple[str, str]
    side: Callable[[Any], float]


def _age(record: Any) -> float:
    if record.age is None or 40 <= record.age < 60:
        return float("nan")
    return float(record.age >= 60)


CONTRASTS = (
    Contrast("view", ("PA", "AP"), lambda r: {"PA": 0.0, "AP": 1.0}.get(r.view or "", float("nan"))),
    Contrast("sex", ("F", "M"), lambda r: {"F": 0.0, "M": 1.0}.get(r.sex or "", float("nan"))),
    Contrast("age", ("under 40", "60 and over"), _age),
)


@dataclass(frozen=True, slots=True)
class Head:
    """A logistic regression on standardised features; the logit is 0 at equal odds."""

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits (n,) of features (n, d)."""
        return np.asarray((features - self.mean) / self.deviation @ self.weights[:-1] + self.weights[-1])


def fit(features: np.ndarray, sides: np.ndarray, patients: Sequence[str]) -> Head:
    """A head from features (n, d) and sides (n,) of 1 and 0. Raises `DataError` below LEAST films a side."""
    counted = [int((sides == value).sum()) for value in (0, 1)]
    if min(counted) < LEAST:
        raise DataError(
            f"{counted[0]} and {counted[1]} real films on the two sides; {LEAST} of each are needed"
        )
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    standard = (features - mean) / deviation
    strength = choose_strength(standard, sides, patients, STRENGTHS)
    return Head(mean, deviation, fit_logistic(standard, sides, strength))


def plan(findings: Sequence[str], views: Sequence[str], count: int) -> tuple[PlanEntry, ...]:
    """Every combination of finding, view, sex and age equally often; COUNT films, or a few more, on each side of a contrast."""
    conditions = list(product(findings, views, ("F", "M"), (YOUNG, OLD)))
    each = -(-2 * count // len(conditions))
    return tuple(
        PlanEntry(labels={finding: 1.0}, view=view, sex=sex, age=age, count=each)
        for finding, view, sex, age in conditions
    )


def owners(data: Any) -> list[str]:
    """The patient of each film, itself where unknown."""
    return [f"film:{key}" if p is None else p for p, key in zip(data.patients, data.keys, strict=True)]


def measure(
    contrast: Contrast, head: Head, features: np.ndarray, data: Any, arm: str, clusters: Sequence[str]
) -> list[Metric]:
    """Accuracy (either side half the weight), share right of each side, AUROC, with intervals."""
    sides = np.array([contrast.side(record) for record in data.records])
    used = np.flatnonzero(np.isfinite(sides))
    scored = Scored(head.logits(features[used]), sides[used], tuple(clusters[i] for i in used))
    counted = " / ".join(str(int((scored.labels == value).sum())) for value in (0, 1))
    named = f"{contrast.name} {contrast.sides[0]} / {contrast.sides[1]}, n = {counted}"
    found = fidelity_metrics(scored, "", 0.0, arm, contrast.name, subgroup=named)
    words = {"sensitivity": f"right of {contrast.sides[1]}", "specificity": f"right of {contrast.sides[0]}"}
    return [
        m.model_copy(update={"finding": None, "name": words.get(m.name.split()[-1], m.name)}) for m in found
    ]


def network(extractor: str, device: str) -> Detector:
    """ImageNet features of several depths, or another network as `synthaug benchmark --extractor` names it."""
    if extractor != "imagenet":
        return open_extractor(extractor, SIZE, device=device)[0]
    config = DetectorConfig(
        arch="tf_efficientnet_lite0",
        head="linear",
        findings=("no_finding",),
        image_size=SIZE,
        mean=0.5,
        std=0.5,
    )
    return build_detector(config, "imagenet").eval().to(choose_device(device))


def steering(real: Any, synthetic: Any, detector: Detector) -> list[Metric]:
    """Every contrast: the head's ceiling on real validation films, then the synthetic films."""
    parts, _ = real_parts(real)
    train, unseen = parts["train"], parts["validation"]
    taught, ceiling, drawn = (
        extract(detector, data).astype(np.float64) for data in (train, unseen, synthetic)
    )
    patients = owners(train)
    out: list[Metric] = []
    for contrast in CONTRASTS:
        sides = np.array([contrast.side(record) for record in train.records])
        used = np.flatnonzero(np.isfinite(sides))
        try:
            head = fit(taught[used], sides[used], [patients[i] for i in used])
        except DataError as lack:
            out.append(Metric(name=f"{contrast.name} AUROC", arm="real", reason=str(lack)))
            continue
        out += measure(contrast, head, ceiling, unseen, "real", owners(unseen))
        out += measure(contrast, head, drawn, synthetic, "synthetic", noise_clusters(synthetic))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--extractor", default="imagenet")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("steering"))
    given = parser.parse_args()

    card = load_checkpoint(given.model, given.device).card
    asked = [name for name in ("no_finding", "pleural_effusion") if name in card.findings] or card.findings[
        :1
    ]
    recipe = GenerateRecipe(plan=plan(asked, card.views, given.count), seed=900)
    generate(recipe=recipe, model=given.model, out=given.out / "films", device=given.device)
    real = RealRadiographs(given.real, min_age=18)
    films = SyntheticRadiographs(given.out / "films")
    text = table(steering(real, films, network(given.extractor, given.device)))
    atomic_write(given.out / "steering.md", (text + "\n").encode())
    print(
        f"{len(films)} synthetic films of {given.model}: {', '.join(asked)}; {', '.join(card.views)}\n\n{text}"
    )


if __name__ == "__main__":
    main()
