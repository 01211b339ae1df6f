"""Sharpness: radially averaged power of synthetic over real films, band by band and view by view; and the block pattern.

Conventions: images are uint8 (n, 1, H, W), brought to 256 x 256; frequencies are cycles per image at that size; 1.0 is as
sharp as real, `grid` 1.0 is no more pattern at the pitch of the latents than real films have. AP films hold about half the
fine power of PA films, so like is compared with like.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthaug.errors import DataError
from synthaug.evaluation.intervals import Estimate, half_samples
from synthaug.evaluation.results import Metric, missing, protocol_id

SIZE = 256
BANDS = {"1-8": (0, 8), "8-32": (8, 32), "32-64": (32, 64), "64-100": (64, 100)}
NAMES = (*BANDS, "grid")
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


@dataclass(frozen=True, slots=True)
class Profiles:
    """What is kept of each film: mean power at radius 1 ... 127, `rings` (n, 127); power along the axes at and beside the
    three pitches, `lines` and `beside` (n, 3)."""

    rings: np.ndarray
    lines: np.ndarray
    beside: np.ndarray

    def subset(self, chosen: np.ndarray) -> "Profiles":
        """The chosen films, by mask or index."""
        return Profiles(self.rings[chosen], self.lines[chosen], self.beside[chosen])


def profiles(spectra: np.ndarray) -> Profiles:
    """The statistics of spectra (n, 256, 256), film by film."""
    frequency = np.fft.fftfreq(SIZE) * SIZE
    radius = np.hypot(frequency[:, None], frequency).round().astype(int)
    rings = np.stack([spectra[:, radius == k].mean(1, dtype=np.float64) for k in range(1, 128)], 1)
    lines, beside = [], []
    for k in PITCHES:
        line = [spectra[:, k, :9], spectra[:, :9, k]]
        near = [spectra[:, k - 5, :9], spectra[:, k + 5, :9], spectra[:, :9, k - 5], spectra[:, :9, k + 5]]
        lines.append(np.concatenate(line, 1).mean(1, dtype=np.float64))
        beside.append(np.concatenate(near, 1).mean(1, dtype=np.float64))
    return Profiles(rings, np.stack(lines, 1), np.stack(beside, 1))


def ratios(synthetic: Profiles, real: Profiles) -> np.ndarray:
    """The values in the order of `NAMES`: the geometric mean of the ratio of median powers in each band; `grid`, the worst
    of the three pitches."""
    ratio = np.log(np.median(synthetic.rings, 0) / np.median(real.rings, 0))
    bands = [float(np.exp(ratio[low:high].mean())) for low, high in BANDS.values()]
    drawn, seen = (one.lines.mean(0) / one.beside.mean(0) for one in (synthetic, real))
    return np.array([*bands, float((drawn / seen).max())])


def band_ratios(synthetic: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """`ratios` by name, from two sets of spectra."""
    values = ratios(profiles(synthetic), profiles(real))
    return dict(zip(NAMES, values.tolist(), strict=True))


def ratio_intervals(
    synthetic: Profiles, real: Profiles, clusters: tuple[Sequence[str], Sequence[str]], blocks: int = 10
) -> list[Estimate]:
    """The ratios with intervals from halves of both sides, clusters kept whole; `error` is that of the logarithm."""
    numbers = [np.unique(np.asarray(names), return_inverse=True)[1] % blocks for names in clusters]

    def half(drawn: np.ndarray, seen: np.ndarray) -> np.ndarray:
        kept = synthetic.subset(np.isin(numbers[0], drawn)), real.subset(np.isin(numbers[1], seen))
        return np.log(ratios(*kept))

    counts = int(numbers[0].max()) + 1, int(numbers[1].max()) + 1
    found = half_samples(np.log(ratios(synthetic, real)), half, counts)
    return [
        Estimate(float(np.exp(e.value)), float(np.exp(e.low)), float(np.exp(e.high)), e.error) for e in found
    ]


def spectrum_metrics(
    synthetic: Mapping[str, np.ndarray],
    real: Mapping[str, np.ndarray],
    arm: str | None = None,
    least: int = 16,
    clusters: tuple[Mapping[str, Sequence[str]], Mapping[str, Sequence[str]]] | None = None,
) -> list[Metric]:
    """Band ratios for each view, with their intervals.

    Arguments: images (n, 1, H, W) by view; with fewer than `least` films on a side a view is named with the reason;
    `clusters` the noise or patient of each film by view, by default each film its own. The floor of each metric is the same
    ratio between two halves of the real films.
    """
    out: list[Metric] = []
    for view, images in synthetic.items():
        facts: dict[str, Any] = {"subgroup": view, "arm": arm, "resize": f"{SIZE} squash"}
        others = real.get(view)
        count = 0 if others is None else len(others)
        if len(images) < least or others is None or count < 2 * least:
            reason = (
                f"{len(images)} synthetic and {count} real {view} films; {least} and {2 * least} are needed"
            )
            out += [missing(f"power {name}", reason, **facts) for name in NAMES]
            continue
        drawn, seen = profiles(power(images)), profiles(power(others))
        own = [str(i) for i in range(len(images))], [str(i) for i in range(count)]
        groups = own if clusters is None else (clusters[0][view], clusters[1][view])
        even = np.arange(count) % 2 == 0
        floors = ratios(seen.subset(even), seen.subset(~even))
        for name, found, floor in zip(
            NAMES, ratio_intervals(drawn, seen, groups), floors.tolist(), strict=True
        ):
            out.append(
                Metric(
                    name=f"power {name}",
                    value=found.value,
                    low=found.low,
                    high=found.high,
                    n=len(images),
                    floor=floor,
                    protocol=protocol_id(f"power {name}", 1, view),
                    **facts,
                )
            )
    return out
