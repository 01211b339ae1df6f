"""Structural similarity of two films, SSIM (Wang et al. 2004), and at five scales, MS-SSIM (Wang et al. 2003).

    SSIM = L_1 C_1,    MS-SSIM = (L_5 C_5)^w5 · prod_{s<5} C_s^w_s

L compares local means, C local contrast and structure. Conventions: grey values in [0, 1]; a Gaussian window of 11 px,
deviation 1.5; each scale is the mean of 2 x 2 pixels of the one before; negative factors of MS-SSIM count as 0. As in
torchmetrics, the contrast of MS-SSIM is averaged over windows inside the film, SSIM over the film mirrored at its edge. A film's
own terms are worked out once, so that a pair costs one blurred product a scale.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from synthaug.errors import DataError

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, DEVIATION = 11, 1.5
SMALLEST = 16 * (WINDOW - 1) + 1  # edge in pixels that five scales need
C1, C2 = 0.01**2, 0.03**2
INSIDE = slice(WINDOW // 2, -(WINDOW // 2))


@dataclass(frozen=True, slots=True)
class Scale:
    """One scale of a stack of films: values, local mean and local variance, mirrored at the edge, all (n, 1, s, s)."""

    values: Tensor
    mean: Tensor
    variance: Tensor


def pyramid(images: np.ndarray) -> list[Scale]:
    """The terms of films uint8 (n, 1, s, s), s of 161 or more, that do not depend on a partner."""
    if images.ndim != 4 or images.shape[1] != 1 or min(images.shape[2:]) < SMALLEST:
        raise DataError(
            f"MS-SSIM: found images {images.shape}, expected (n, 1, H, W) of {SMALLEST} pixels or more"
        )
    values = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    out = []
    for scale in range(len(WEIGHTS)):
        values = avg_pool2d(values, 2) if scale else values
        out.append(_scale(values))
    return out


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """SSIM (n,) of films uint8 (n, 1, s, s) and their partners, s of 11 or more."""
    a, b = (_scale(torch.from_numpy(np.ascontiguousarray(x)).float() / 255) for x in (images, others))
    return np.asarray((_luminance(a, b) * _contrast(a, b)).mean((1, 2, 3)).double().numpy())


def ms_ssim(first: list[Scale], second: list[Scale]) -> np.ndarray:
    """MS-SSIM (n,) of films and their partners; either may be one film beside many."""
    result = torch.ones(1)
    for scale, (a, b, weight) in enumerate(zip(first, second, WEIGHTS, strict=True)):
        contrast = _contrast(a, b)
        if scale == len(WEIGHTS) - 1:
            factor = (_luminance(a, b) * contrast).mean((1, 2, 3))
        else:
            factor = contrast[..., INSIDE, INSIDE].mean((1, 2, 3))
        result = result * factor.clamp(min=0) ** weight
    return np.asarray(result.double().numpy())


def _scale(values: Tensor) -> Scale:
    mean = _blur(values)
    return Scale(values, mean, (_blur(values * values) - mean * mean).clamp(min=0))


def _luminance(a: Scale, b: Scale) -> Tensor:
    return (2 * a.mean * b.mean + C1) / (a.mean**2 + b.mean**2 + C1)


def _contrast(a: Scale, b: Scale) -> Tensor:
    covariance = _blur(a.values * b.values) - a.mean * b.mean
    return (2 * covariance + C2) / (a.variance + b.variance + C2)


def _blur(films: Tensor) -> Tensor:
    at = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-(at**2) / (2 * DEVIATION**2))
    window = (window / window.sum()).to(films)
    half = WINDOW // 2
    mirrored = pad(films, (half, half, half, half), mode="reflect")
    return conv2d(conv2d(mirrored, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
