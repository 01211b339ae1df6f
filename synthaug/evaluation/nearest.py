"""Nearest training films: is a synthetic film closer to a film the generator saw than an unseen real film is?

Conventions: features are unit vectors (n, d), so a distance lies in [0, 2] and is √(2 - 2 cosine); the search is exact.
Two extractors: "pixels", 64 x 64 grey values with the film's mean taken off (the cosine is then the correlation of two
films), and "detector", the pooled features of a detector. Copies show in pixels, near-copies in features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from synthaug.detection.detector import Detector
from synthaug.detection.predict import extract
from synthaug.errors import DataError
from synthaug.evaluation.results import Metric
from synthaug.images import resize

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


def nearest(queries: np.ndarray, gallery: np.ndarray, tile: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """The exact Euclidean distance (m,) from each query to its nearest gallery row, and that row's index (m,).

    Arguments: `queries` (m, d), `gallery` (n, d); `tile` rows of each are compared at a time. Ties go to the lower index.
    """
    if not len(gallery):
        raise DataError("no training film to compare with")
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(queries), dtype=torch.long)
    rows, columns = torch.from_numpy(queries).double(), torch.from_numpy(gallery).double()
    for top in range(0, len(rows), tile):
        part = slice(top, top + tile)
        for left in range(0, len(columns), tile):
            exact = "donot_use_mm_for_euclid_dist"
            distance, at = torch.cdist(rows[part], columns[left : left + tile], compute_mode=exact).min(1)
            closer = distance < best[part]
            best[part] = torch.where(closer, distance, best[part])
            index[part] = torch.where(closer, at + left, index[part])
    return best.numpy(), index.numpy()


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
    near, at = nearest(extractor(synthetic), gallery)
    real_near, real_at = nearest(extractor(unseen), gallery)
    return NearestFilms(name, near, at, real_near, real_at)


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
