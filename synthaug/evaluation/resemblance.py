"""How synthetic films resemble real ones as a whole: FID, KID, precision, recall, density, coverage of one set of features.

Conventions: synthetic and reference films are equal in number; `floor` is the same metric between the reference and other
real films of other patients, in the same number. Intervals leave out blocks of patients and of noise clusters, one by one
(`intervals.jackknife`) or half of them (`half_samples`, for PRDC); they speak of the value at this n. The extractor stands
beside each name: FID is only Inception's where the extractor is Inception.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from synthaug.evaluation.features import Features
from synthaug.evaluation.frechet import UNBIASED_FROM, Moments, frechet_distance
from synthaug.evaluation.intervals import Estimate, half_samples, jackknife, wilson
from synthaug.evaluation.kernel import kernel_distance, kernel_sums
from synthaug.evaluation.prdc import MOST, K, distances, prdc
from synthaug.evaluation.prdc import NAMES as PRDC
from synthaug.evaluation.results import Metric, missing, protocol_id
from synthaug.evaluation.samples import EqualSamples, Sample, TooFewFilms, equal_samples

NAMES = ("FID", "KID", *PRDC)
LEAST = 50
BIASED = f"biased: n is below {UNBIASED_FROM}; compare at equal n only"


def resemblance(
    synthetic: Features,
    synthetic_clusters: Sequence[str],
    real: Features,
    real_clusters: Sequence[str],
    finding: str | None = None,
    arm: str = "synthetic",
    least: int = LEAST,
) -> list[Metric]:
    """The six metrics of two sets of features.

    Arguments: features and the cluster of each film (noise of synthetic films, patients of real ones). With fewer than
    `least` synthetic or 2 `least` real films each metric has a reason instead of a value.
    """
    facts: dict[str, Any] = {
        "finding": finding,
        "arm": arm,
        "extractor": synthetic.extractor,
        "resize": synthetic.resize,
    }
    try:
        samples = equal_samples(synthetic, synthetic_clusters, real, real_clusters, least)
    except TooFewFilms as few:
        return [missing(name, str(few), **facts) for name in NAMES]
    held = samples
    if samples.n > MOST:
        held = equal_samples(synthetic, synthetic_clusters, real, real_clusters, least, MOST)
    measured = [("FID", fid(samples), samples), ("KID", kid(samples), samples)]
    measured += [(name, found, held) for name, found in zip(PRDC, manifolds(held), strict=True)]
    out = []
    for name, (estimate, floor), used in measured:
        settings = [name, 1, synthetic.digest, synthetic.extractor, synthetic.resize, finding, used.digest]
        settings += [K] if name in PRDC else []
        out.append(
            Metric(
                name=name,
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                n=used.n,
                floor=floor,
                note=BIASED if name == "FID" and used.n < UNBIASED_FROM else None,
                protocol=protocol_id(name, *settings),
                **facts,
            )
        )
    return out


def fid(samples: EqualSamples) -> tuple[Estimate, float]:
    """The Frechet distance with its interval, never below 0, and its floor."""
    drawn, real = samples.synthetic, samples.reference
    whole = Moments.of(drawn.values), Moments.of(real.values)

    def without(left: tuple[int | None, int | None]) -> float:
        a = whole[0] if left[0] is None else Moments.of(drawn.without(left[0]))
        b = whole[1] if left[1] is None else Moments.of(real.without(left[1]))
        return frechet_distance(a, b)

    (found,) = jackknife(frechet_distance(*whole), without, (_blocks(drawn), _blocks(real)))
    found = Estimate(found.value, float(np.maximum(found.low, 0)), found.high, found.error)
    return found, frechet_distance(Moments.of(samples.other.values), whole[1])


def kid(samples: EqualSamples) -> tuple[Estimate, float]:
    """The kernel distance with its interval, and its floor."""
    sums = kernel_sums(samples.synthetic, samples.reference)
    blocks = _blocks(samples.synthetic), _blocks(samples.reference)
    (found,) = jackknife(kernel_distance(sums), lambda left: kernel_distance(sums, left), blocks)
    return found, kernel_distance(kernel_sums(samples.other, samples.reference))


def manifolds(samples: EqualSamples) -> list[tuple[Estimate, float]]:
    """Precision, recall, density and coverage with their intervals, and their floors."""
    held = distances(samples.reference, samples.synthetic)
    blocks = _blocks(samples.synthetic), _blocks(samples.reference)
    found = half_samples(prdc(held), lambda drawn, real: prdc(held, K, drawn, real), blocks)
    found = [e if name == "density" else _share(e, samples.n) for name, e in zip(PRDC, found, strict=True)]
    floors = prdc(distances(samples.reference, samples.other))
    return list(zip(found, floors.tolist(), strict=True))


def _share(found: Estimate, n: int) -> Estimate:
    """Wilson's interval at the number of films that the error is worth: it stays in [0, 1] and never has width 0."""
    p = found.value
    number = min(n, p * (1 - p) / found.error**2) if found.error > 0 and 0 < p < 1 else n
    return Estimate(p, *wilson(p * number, number), found.error)


def _blocks(sample: Sample) -> int:
    return int(sample.blocks.max()) + 1
