"""Nearest training films: is a synthetic film closer to a film the generator saw than an unseen real film is?

Conventions: features are unit vectors (n, d), so a distance lies in [0, 2] and is √(2 - 2 cosine); the search is exact.
Two extractors: "pixels", 64 x 64 grey values with the film's mean taken off (the cosine is then the correlation of two
films), and "detector", the pooled features of a detector. Copies show in pixels, near-copies in features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthaug.detection.detector import Detector
from synthaug.detection.predict import extract
from synthaug.evaluation.results import Metric
from synthaug.images import resize
from synthaug.neighbours import nearest

Extractor = Callable[[np.ndarray], np.ndarray]
THUMBNAIL = 64


def unit(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)


def pixel_features(images: np.ndarray) -> np.ndarray:
    """Unit vectors (n, 4096) of films (n, 1, H, W): small, mean taken off."""
    small = np.stack([resize(image[0], THUMBNAIL, fit="squash") for image in images]).reshape(len(images), -1)
    return unit(small.astype(np.float32) - small.mean(1, keepdims=True))


def detector_features(detector: Detector) -> Extractor:
    """An extractor of the pooled features of `detector`, as unit vectors."""
    return lambda images: unit(extract(detector, images))


@dataclass(frozen=True, slots=True)
class NearestFilms:
    """Distances to the nearest training film: of synthetic films and, for scale, of real films that nothing was trained on."""

    extractor: str
    synthetic: np.ndarray
    synthetic_index: np.ndarray
    real: np.ndarray
    real_index: np.ndarray

    def suspects(self, quantile: float = 0.01) -> np.ndarray:
        """Synthetic films nearer to a training film than all but `quantile` of the unseen real films, nearest first."""
        order = np.argsort(self.synthetic, kind="stable")
        return order[self.synthetic[order] < np.quantile(self.real, quantile)]


def nearest_films(
    synthetic: np.ndarray,
    training: np.ndarray,
    unseen: np.ndarray,
    extractor: Extractor = pixel_features,
    name: str = "pixels",
) -> NearestFilms:
    """Distances of synthetic and of unseen real films to the training films, all (n, 1, H, W)."""
    gallery = extractor(training)
    near, real = nearest(extractor(synthetic), gallery), nearest(extractor(unseen), gallery)
    return NearestFilms(
        name, near.distances[:, 0], near.indices[:, 0], real.distances[:, 0], real.indices[:, 0]
    )


def nearest_metrics(found: NearestFilms, arm: str | None = None) -> list[Metric]:
    """Median and least distance of synthetic films, beside (floor) those of unseen real films, and the share of suspects."""
    facts: dict[str, Any] = {"arm": arm, "extractor": found.extractor, "n": len(found.synthetic)}
    share = len(found.suspects()) / len(found.synthetic)
    return [
        Metric(
            name="nearest training film, median",
            value=np.median(found.synthetic),
            floor=np.median(found.real),
            **facts,
        ),
        Metric(
            name="nearest training film, least", value=found.synthetic.min(), floor=found.real.min(), **facts
        ),
        Metric(name="nearer than 99 % of unseen real films", value=share, floor=0.01, **facts),
    ]
