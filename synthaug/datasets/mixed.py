"""Real and synthetic radiographs in an exact proportion.

Of n films, floor(n * synthetic_fraction + 1/2) are synthetic. No film is repeated. Which films, and in which
order, is a function of the seed alone; under one seed, a smaller mixture takes a prefix of what a larger one
of the same parts takes from each part.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Self

import numpy as np
from PIL import Image

from synthaug.datasets.base import Radiographs
from synthaug.datasets.formats.listing import Listing, ordered
from synthaug.errors import DataError
from synthaug.images import resize


class MixedRadiographs(Radiographs):
    """A training set of real and synthetic films.

    `films.synthetic` tells which is which. Labels cover the findings of both parts; what one part does not
    know of is NaN on its films.

    Args:
        real: real films.
        synthetic: synthetic films.
        synthetic_fraction: share of synthetic films, 0 to 1.
        seed: of the choice and the order.
        size: films in all; by default the most that repeat no film.
        findings: columns of the labels; by default those of either part.
        transform: of the PIL "L" image; by default each part's own.
        target_transform: of the label vector; where either is given, the parts' own are set aside.
        image_size: resize to a square of this many pixels, after each part's own `image_size`.
        fit: how: "crop", "pad" or "squash".

    Raises:
        DataError: a fraction outside [0, 1], parts that are swapped, or too few films for `size`.
        UnknownNameError: a finding is not known.
    """

    def __init__(
        self,
        real: Radiographs,
        synthetic: Radiographs,
        synthetic_fraction: float,
        seed: int = 0,
        size: int | None = None,
        findings: str | Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        image_size: int | None = None,
        fit: str = "crop",
    ) -> None:
        if real.synthetic.any() or not synthetic.synthetic.all():
            raise DataError("mixture: expected real films first, then synthetic ones; found them otherwise")
        counts = mixture(len(real), len(synthetic), synthetic_fraction, size)
        self.parts = (real, synthetic)
        chosen = [
            np.random.default_rng((seed, which)).permutation(len(part))[:count]
            for which, (part, count) in enumerate(zip(self.parts, counts, strict=True))
        ]
        # (n, 2): which part a film comes from, and its index there.
        pairs = np.array([(which, index) for which, indices in enumerate(chosen) for index in indices])
        self._places = np.random.default_rng((seed, 2)).permutation(pairs.reshape(-1, 2))
        listing = Listing(
            format="mixed",
            films=tuple(self.parts[which].films[index] for which, index in self._places),
            findings=ordered({*real.findings, *synthetic.findings}),
            reading={
                "real": f"{counts[0]} films of {real.root}",
                "synthetic": f"{counts[1]} of {synthetic.root}",
            },
        )
        super().__init__(real.root, listing, findings, transform, target_transform, image_size, fit)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(self.image(index))
        target: Any = self.target(index)
        transforms = self.transforms or self.parts[self._places[index][0]].transforms
        return (image, target) if transforms is None else transforms(image, target)

    def image(self, index: int) -> np.ndarray:
        """The image, uint8 (H, W), as its part gives it, then resized to `image_size` when there is one."""
        which, place = self._places[index]
        image = self.parts[which].image(place)
        return image if self.image_size is None else resize(image, self.image_size, self.fit)

    def _chosen(self, indices: np.ndarray) -> Self:
        part = super()._chosen(indices)
        part._places = self._places[indices]
        return part


def mixture(real: int, synthetic: int, fraction: float, size: int | None = None) -> tuple[int, int]:
    """How many real and synthetic films make up a mixture.

    Args:
        real: real films at hand.
        synthetic: synthetic films at hand.
        fraction: share of synthetic films.
        size: films in all; by default the most that repeat none.

    Raises:
        DataError: a fraction outside [0, 1], or too few films.
    """
    if not 0 <= fraction <= 1:
        raise DataError(f"synthetic_fraction: found {fraction}, expected 0 to 1")
    share = Fraction(fraction).limit_denominator(1_000_000)

    def counts(total: int) -> tuple[int, int]:
        generated = math.floor(total * share + Fraction(1, 2))
        return total - generated, generated

    def fits(total: int) -> bool:
        return counts(total)[0] <= real and counts(total)[1] <= synthetic

    if size is None:
        # Both counts never fall as the total grows, so what fits is found by halving.
        low, high = 0, real + synthetic
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        size = low
    if size < 1 or not fits(size):
        need = counts(max(size, 1))
        raise DataError(
            f"mixture of {size} films with synthetic_fraction {fraction:g}: needs {need[0]} real and "
            f"{need[1]} synthetic films, found {real} and {synthetic}"
        )
    return counts(size)
