"""Diversity within a prompt: how alike are films that were drawn from one text?

The mean of MS-SSIM (Wang et al. 2003) over pairs of films, at five scales:

    MS-SSIM = SSIM_5^w5 · prod_{s<5} CS_s^w_s

Conventions: 1 is the same film twice, lower is more diverse; grey values in [0, 1]; a Gaussian window of 11 px, deviation
1.5; each scale is the mean of 2 x 2 pixels of the one before; negative factors count as 0. As in torchmetrics, contrast is
averaged over windows inside the film and the last SSIM over the film mirrored at its edge. A film's own terms are worked
out once, so that a pair costs one blurred product a scale.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from synthaug.errors import DataError
from synthaug.evaluation.intervals import Estimate
from synthaug.evaluation.results import Metric, missing, protocol_id

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, DEVIATION = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
SIZE = 192
LEAST, MOST = 8, 32  # films of a prompt: fewer say nothing, more would change little
PROMPTS = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """One scale of a stack of films: values, local mean and local variance, mirrored at the edge, all (n, 1, s, s)."""

    values: Tensor
    mean: Tensor
    variance: Tensor


def pyramid(images: np.ndarray) -> list[Scale]:
    """The terms of films uint8 (n, 1, s, s), s of 161 or more, that do not depend on a partner."""
    if images.ndim != 4 or images.shape[1] != 1 or min(images.shape[2:]) <= 16 * (WINDOW - 1):
        raise DataError(f"MS-SSIM: found images {images.shape}, expected (n, 1, H, W) of 161 pixels or more")
    values = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    out = []
    for scale in range(len(WEIGHTS)):
        values = avg_pool2d(values, 2) if scale else values
        mean = _blur(values)
        out.append(Scale(values, mean, (_blur(values * values) - mean * mean).clamp(min=0)))
    return out


def ms_ssim(first: list[Scale], second: list[Scale]) -> np.ndarray:
    """MS-SSIM (n,) of films and their partners; either may be one film beside many."""
    result = torch.ones(1)
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    for scale, (a, b, weight) in enumerate(zip(first, second, WEIGHTS, strict=True)):
        covariance = _blur(a.values * b.values) - a.mean * b.mean
        contrast = (2 * covariance + C2) / (a.variance + b.variance + C2)
        if scale == len(WEIGHTS) - 1:
            luminance = (2 * a.mean * b.mean + C1) / (a.mean**2 + b.mean**2 + C1)
            factor = (luminance * contrast).mean((1, 2, 3))
        else:
            factor = contrast[..., inside, inside].mean((1, 2, 3))
        result = result * factor.clamp(min=0) ** weight
    return np.asarray(result.double().numpy())


def similarities(images: np.ndarray, batch: int = 16) -> np.ndarray:
    """MS-SSIM of every pair, symmetric (n, n), ones on the diagonal."""
    scales = pyramid(images)
    out = np.eye(len(images))
    for i in range(len(images) - 1):
        one = [_part(scale, slice(i, i + 1)) for scale in scales]
        for start in range(i + 1, len(images), batch):
            part = slice(start, min(start + batch, len(images)))
            out[i, part] = ms_ssim(one, [_part(scale, part) for scale in scales])
    return np.maximum(out, out.T)


def pair_mean(matrix: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Mean over pairs of films with the interval of the jackknife over films: pairs share films and are not independent."""
    n = len(matrix)
    rows = matrix.sum(1) - np.diag(matrix)
    total = rows.sum() / 2
    value = total / (n * (n - 1) / 2)
    if n < 4:
        return Estimate(float(value), float("nan"), float("nan"), float("nan"))
    left_out = (total - rows) / ((n - 1) * (n - 2) / 2)
    error = float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))
    reach = float(student.ppf((1 + confidence) / 2, n - 1)) * error
    return Estimate(float(value), float(value - reach), float(value + reach), error)


def diversity(data: Any, real: Any | None = None, arm: str = "synthetic") -> list[Metric]:
    """MS-SSIM within each of the most frequent prompts; the floor is that of real films, one a patient, of its findings.

    Arguments: `data` synthetic films with records, `real` real ones. A prompt with fewer than `LEAST` films has a reason.
    """
    name, resize = "MS-SSIM within a prompt", f"{SIZE} crop"
    facts: dict[str, Any] = {"arm": arm, "resize": resize}
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(data.records):
        if record.prompt is not None:
            groups.setdefault(record.prompt, []).append(index)
    if not groups:
        return [missing(name, "the synthetic films carry no prompt", **facts)]
    out = []
    for prompt, indices in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))[:PROMPTS]:
        if len(indices) < LEAST:
            reason = f"{len(indices)} films of this prompt; {LEAST} are needed"
            out.append(missing(name, reason, subgroup=prompt, **facts))
            continue
        chosen = data.subset(sorted(indices, key=lambda i: data.keys[i])[:MOST])
        found = pair_mean(similarities(chosen.images_array(SIZE)))
        floor = None if real is None else _floor(data.records[indices[0]].labels, real, len(chosen))
        out.append(
            Metric(
                name=name,
                subgroup=prompt,
                value=found.value,
                low=found.low,
                high=found.high,
                n=len(chosen),
                floor=floor,
                protocol=protocol_id(name, 1, resize, len(chosen), prompt),
                **facts,
            )
        )
    return out


def _floor(labels: Any, real: Any, count: int) -> float | None:
    """The same mean among real films that show what the prompt asks for; None where there are too few."""
    present = [name for name, value in labels.items() if value == 1]
    shown = (
        np.all([real.column(name) == 1 for name in present], axis=0) if present else np.zeros(len(real), bool)
    )
    patients: dict[Any, int] = {}
    for index in np.flatnonzero(shown):
        patients.setdefault(real.patients[index] or real.keys[index], int(index))
    if len(patients) < count:
        return None
    chosen = sorted(patients.values(), key=lambda i: real.keys[i])[:count]
    return pair_mean(similarities(real.subset(chosen).images_array(SIZE))).value


def _part(scale: Scale, part: slice) -> Scale:
    return Scale(scale.values[part], scale.mean[part], scale.variance[part])


def _blur(films: Tensor) -> Tensor:
    at = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-(at**2) / (2 * DEVIATION**2))
    window = (window / window.sum()).to(films)
    half = WINDOW // 2
    mirrored = pad(films, (half, half, half, half), mode="reflect")
    return conv2d(conv2d(mirrored, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
