"""Equal samples: synthetic films, real films, and other real films, so many of each, whatever the order they came in.

Conventions: a cluster (patient, or noise of synthetic films) stays in one sample and one block of the jackknife. The order
is that of SHA-256 over a cluster's images, so it depends on neither names nor the order of the folder. The value of a
metric is that of `synthetic` beside `reference`; its floor is that of `other` beside the same `reference`, real beside
real, with the same number of films.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthaug.errors import DataError
from synthaug.evaluation.features import Features

BLOCKS = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """`values` float64 (n, d) and the jackknife block of each film, int (n,), blocks numbered from 0."""

    values: np.ndarray
    blocks: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def without(self, block: int | None) -> np.ndarray:
        """The values of every other block; all of them for None."""
        return self.values if block is None else self.values[self.blocks != block]


@dataclass(frozen=True, slots=True)
class EqualSamples:
    """Three samples of `n` films each; `digest` names the reference films."""

    synthetic: Sample
    reference: Sample
    other: Sample
    n: int
    digest: str


class TooFewFilms(DataError):
    """Fewer films than a metric needs; the message says how many are needed."""


def order_of(films: Sequence[str], clusters: Sequence[str]) -> list[np.ndarray]:
    """The films of each cluster, clusters and films in the order of their content."""
    members: dict[str, list[int]] = {}
    for index, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(index)
    inside = [sorted(indices, key=lambda i: films[i]) for indices in members.values()]
    inside.sort(key=lambda group: hashlib.sha256(" ".join(films[i] for i in group).encode()).digest())
    return [np.array(group) for group in inside]


def equal_samples(
    synthetic: Features,
    synthetic_clusters: Sequence[str],
    real: Features,
    real_clusters: Sequence[str],
    least: int = 50,
    most: int | None = None,
    blocks: int = BLOCKS,
) -> EqualSamples:
    """Three samples of min(synthetic, half of the real films) films each, at most `most`.

    Raises `TooFewFilms` below `least`, `DataError` where the features come from different extractors.
    """
    if (synthetic.digest, synthetic.resize, synthetic.extractor) != (
        real.digest,
        real.resize,
        real.extractor,
    ):
        raise DataError(
            f"features of {synthetic.extractor} ({synthetic.resize}) beside those of {real.extractor} ({real.resize}); "
            "expected one extractor"
        )
    drawn = order_of(synthetic.films, synthetic_clusters)
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    counts = [0, 0]
    for group in order_of(real.films, real_clusters):
        side = int(counts[1] < counts[0])
        sides[side].append(group)
        counts[side] += len(group)
    n = min(len(synthetic), *counts)
    if n < least:
        raise TooFewFilms(
            f"{len(synthetic)} synthetic and {len(real)} real films ({len(set(real_clusters))} patients); {least} synthetic "
            f"and {2 * least} real ones are needed: half of them are the reference, half the floor"
        )
    n = n if most is None else min(n, most)
    reference = _sample(real, sides[0], n, blocks)
    kept = np.concatenate(sides[0])[:n]
    digest = hashlib.sha256(" ".join(real.films[i] for i in kept).encode()).hexdigest()[:16]
    return EqualSamples(
        _sample(synthetic, drawn, n, blocks), reference, _sample(real, sides[1], n, blocks), n, digest
    )


def _sample(held: Features, groups: list[np.ndarray], n: int, blocks: int) -> Sample:
    chosen = np.concatenate(groups)[:n]
    cluster = np.repeat(np.arange(len(groups)), [len(g) for g in groups])[:n]
    return Sample(held.values[chosen].astype(np.float64), cluster % min(blocks, int(cluster[-1]) + 1))
