"""Diversity within a prompt: how alike are films that were drawn from one text?

The mean of MS-SSIM over pairs of films: 1 is the same film twice, lower is more diverse.
"""

from typing import Any

import numpy as np
from scipy.stats import t as student

from synthaug.evaluation.intervals import Estimate
from synthaug.evaluation.results import Metric, missing, protocol_id
from synthaug.evaluation.similarity import Scale, ms_ssim, pyramid

SIZE = 192
LEAST, MOST = 8, 32  # films of a prompt: fewer say nothing, more would change little
PROMPTS = 8


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
