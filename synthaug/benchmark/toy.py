"""Drawn toy pictures for the demonstration: two dark lungs in a grey thorax, fluid at one base or none.

They stand for films only in shape: uint8 (n, 1, s, s), a label column, a patient each. Nothing can be learnt about
radiographs from them.
"""

import numpy as np

from synthaug.benchmark.leakage import Side
from synthaug.benchmark.material import Material, checked
from synthaug.detection.films import Films


def toy_films(count: int, size: int, finding: str, seed: int, synthetic: bool = False) -> Films:
    """Draw `count` pictures, every other one with fluid; `synthetic` ones are smoother and a little darker."""
    rng = np.random.default_rng([seed, int(synthetic)])
    down, across = np.mgrid[0:size, 0:size] / size
    images = np.empty((count, 1, size, size), np.uint8)
    for index in range(count):
        picture = np.full((size, size), 150.0)
        level = rng.uniform(0.62, 0.72) if index % 2 else 2.0
        wet = rng.integers(2)
        for side, centre in enumerate((0.3, 0.7)):
            x, y = across - centre - rng.normal(0, 0.02), down - 0.5 - rng.normal(0, 0.03)
            lung = (x / rng.uniform(0.13, 0.17)) ** 2 + (y / rng.uniform(0.3, 0.36)) ** 2 < 1
            picture[lung] = 60 + rng.normal(0, 8)
            if side == wet:
                picture[lung & (down > level - 0.5 * x**2)] = 105
        picture += rng.normal(0, 12 if synthetic else 22, (size, size)) + rng.normal(
            -8 if synthetic else 0, 6
        )
        images[index, 0] = picture.clip(0, 255)
    labels = (np.arange(count)[:, None] % 2).astype(np.float32)
    names = tuple(f"toy-{seed}-{int(synthetic)}-{i}" for i in range(count))
    return Films(images, labels, (finding,), names, names)


def toy_material(finding: str, size: int) -> Material:
    """Real-like training, validation and test pictures, synthetic-like ones, and those of an imagined generator."""
    counts: dict[Side, int] = {"training": 48, "validation": 40, "judge": 120, "generator": 24}
    sides: dict[Side, Films] = {
        name: toy_films(n, size, finding, seed) for seed, (name, n) in enumerate(counts.items())
    }
    drawn = toy_films(120, size, finding, 9, synthetic=True)
    return checked({**sides, "synthetic": drawn}, ("drawn toy pictures",))
