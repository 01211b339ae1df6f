"""Sharpness: radially averaged power of synthetic over real films, band by band and view by view; and the block pattern.

Conventions: images are uint8 (n, 1, H, W), brought to 256 x 256; frequencies are cycles per image at that size; 1.0 is as
sharp as real, `grid` 1.0 is no more pattern at the pitch of the latents than real films have. AP films hold about half the
fine power of PA films, so like is compared with like.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from synthaug.errors import DataError
from synthaug.evaluation.results import Metric, missing

SIZE = 256
BANDS = {"1-8": (0, 8), "8-32": (8, 32), "32-64": (32, 64), "64-100": (64, 100)}
PITCHES = (32, 64, 96)


def power(images: np.ndarray, batch: int = 64) -> np.ndarray:
    """|F|² of each film (n, 256, 256), its mean taken off, under a Hann window."""
    from synthaug.images import resize

    if images.ndim != 4 or images.shape[1] != 1 or not len(images):
        raise DataError(f"expected films (n, 1, H, W), found {images.shape}")
    window = np.hanning(SIZE)
    window = window * window[:, None]
    out = np.empty((len(images), SIZE, SIZE), np.float32)
    for start in range(0, len(images), batch):
        part = images[start : start + batch, 0]
        if part.shape[1:] != (SIZE, SIZE):
            part = np.stack([resize(image, SIZE, fit="squash") for image in part])
        films = part.astype(np.float64)
        films -= films.mean((1, 2), keepdims=True)
        out[start : start + batch] = np.abs(np.fft.fft2(films * window)) ** 2
    return out


def radial(spectra: np.ndarray) -> np.ndarray:
    """Median over films of the mean power at each radius 1 ... 127: (127,)."""
    frequency = np.fft.fftfreq(SIZE) * SIZE
    radius = np.hypot(frequency[:, None], frequency).round().astype(int)
    return np.array([np.median(spectra[:, radius == k].mean(1, dtype=np.float64)) for k in range(1, 128)])


def pattern(spectra: np.ndarray) -> np.ndarray:
    """Power along the axes at 32, 64 and 96 cycles over that five cycles beside: (3,)."""
    out = []
    for k in PITCHES:
        line = np.concatenate([spectra[:, k, :9], spectra[:, :9, k]], 1).mean(dtype=np.float64)
        beside = [spectra[:, k - 5, :9], spectra[:, k + 5, :9], spectra[:, :9, k - 5], spectra[:, :9, k + 5]]
        out.append(line / np.concatenate(beside, 1).mean(dtype=np.float64))
    return np.array(out)


def band_ratios(synthetic: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Geometric mean of the power ratio in each band, and `grid`, the worst of the three pitches, from two sets of spectra."""
    ratio = np.log(radial(synthetic) / radial(real))
    out = {name: float(np.exp(ratio[low:high].mean())) for name, (low, high) in BANDS.items()}
    out["grid"] = float((pattern(synthetic) / pattern(real)).max())
    return out


def spectrum_metrics(
    synthetic: Mapping[str, np.ndarray],
    real: Mapping[str, np.ndarray],
    arm: str | None = None,
    least: int = 16,
) -> list[Metric]:
    """Band ratios for each view.

    Arguments: images (n, 1, H, W) by view; with fewer than `least` films on a side a view is named with the reason.
    The floor of each metric is the same ratio between two halves of the real films.
    """
    out: list[Metric] = []
    names = [*BANDS, "grid"]
    for view, images in synthetic.items():
        facts: dict[str, Any] = {"subgroup": view, "arm": arm, "resize": f"{SIZE} squash"}
        others = real.get(view)
        count = 0 if others is None else len(others)
        if len(images) < least or others is None or count < 2 * least:
            reason = (
                f"{len(images)} synthetic and {count} real {view} films; {least} and {2 * least} are needed"
            )
            out += [missing(f"power {name}", reason, **facts) for name in names]
            continue
        of_real = power(others)
        values, floor = band_ratios(power(images), of_real), band_ratios(of_real[::2], of_real[1::2])
        out += [
            Metric(name=f"power {n}", value=values[n], n=len(images), floor=floor[n], **facts) for n in names
        ]
    return out
