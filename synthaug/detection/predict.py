"""From images to probabilities, batch by batch.

Conventions: probabilities are float32 (n, findings) in the detector's order, after its temperature. Everything is computed
in float32, whatever the hardware: eight bits of mantissa would tie films that differ, and move scores with the batch size.
"""

from typing import cast

import numpy as np
import torch

from synthaug.detection.detector import Detector
from synthaug.detection.films import RadiographData, hold
from synthaug.errors import ImageError
from synthaug.images import resize


def pixels_for(detector: Detector, images: np.ndarray | RadiographData) -> np.ndarray:
    """Images or a data set as the uint8 block (n, 1, s, s) that the detector reads."""
    config = detector.config
    if not isinstance(images, np.ndarray):
        return hold(images, config.image_size, findings=(), fit=config.fit).images
    if images.dtype != np.uint8 or images.ndim not in (2, 4) or (images.ndim == 4 and images.shape[1] != 1):
        raise ImageError(f"expected uint8 (B, 1, H, W) or (H, W), found {images.dtype} {images.shape}")
    block = images[None, None] if images.ndim == 2 else images
    if block.shape[-2:] == (config.image_size, config.image_size):
        return block
    return np.stack([resize(image[0], config.image_size, fit=config.fit)[None] for image in block])


@torch.no_grad()
def _run(detector: Detector, block: np.ndarray, batch_size: int, features: bool) -> np.ndarray:
    device = next(detector.parameters()).device
    was_training = detector.training
    detector.eval()
    out = []
    try:
        for start in range(0, len(block), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(block[start : start + batch_size])).to(device)
            result = detector.features(batch) if features else detector(batch)
            out.append(result.float().cpu())
    finally:
        detector.train(was_training)
    return cast(np.ndarray, torch.cat(out).numpy())


def logits(detector: Detector, images: np.ndarray | RadiographData, batch_size: int = 32) -> np.ndarray:
    """Logits (n, findings) as the network gives them, before the temperature."""
    return _run(detector, pixels_for(detector, images), batch_size, features=False)


def predict(detector: Detector, images: np.ndarray | RadiographData, batch_size: int = 32) -> np.ndarray:
    """Probabilities (n, findings) of a data set, of images uint8 (B, 1, H, W) or of one image (H, W)."""
    scaled = logits(detector, images, batch_size) / detector.config.temperature
    return (1 / (1 + np.exp(-scaled.astype(np.float64)))).astype(np.float32)


def extract(detector: Detector, images: np.ndarray | RadiographData, batch_size: int = 32) -> np.ndarray:
    """Pooled features (n, d) in fp32, for distances between films."""
    return _run(detector, pixels_for(detector, images), batch_size, features=True)
