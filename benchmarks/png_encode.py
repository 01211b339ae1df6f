"""The grey PNG encoder beside Pillow's default: time and size.

    python benchmarks/png_encode.py                      # drawn texture, 512 px
    python benchmarks/png_encode.py --films FOLDER       # real films, at their own size

Prints images a second and the ratio of the sizes. The decoded images are compared: both are lossless.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from comparison import Comparison, parser, show, texture
from PIL import Image

from synthaug import images


def pillow(image: np.ndarray) -> bytes:
    """Pillow's PNG with its default settings."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument(
        "--films", type=Path, help="a folder of PNG, JPEG or WebP films; drawn texture without it"
    )
    given.add_argument("--count", type=int, default=16, help="images")
    given.add_argument("--size", type=int, default=512, help="pixels a side of the drawn texture")
    given.add_argument("--rounds", type=int, default=5, help="over all images, in turns")
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    if given.films:
        paths = sorted(
            path for path in given.films.iterdir() if path.suffix in (".png", ".jpg", ".jpeg", ".webp")
        )
        films = [images.read(path) for path in paths[:: max(1, len(paths) // given.count)][: given.count]]
    else:
        rng = np.random.default_rng(0)
        films = [texture(rng, given.size) for _ in range(given.count)]
    rates: dict[Callable[[np.ndarray], bytes], list[float]] = {images.encode: [], pillow: []}
    sizes = {}
    for _ in range(given.rounds):
        for encode, taken in rates.items():
            start = time.perf_counter()
            encoded = [encode(film) for film in films]
            taken.append(len(films) / (time.perf_counter() - start))
            sizes[encode] = sum(map(len, encoded))
            for film, data in zip(films, encoded, strict=True):
                if not np.array_equal(images.decode(data), film):
                    raise SystemExit("the encoder is not lossless")
    kind = "films of " + str(given.films) if given.films else "drawn texture"
    setting = (
        f"{len(films)} images of {films[0].shape[1]} x {films[0].shape[0]}, {kind}; {images.PNG_ENCODER}"
    )
    notes = {"size": f"{sizes[images.encode] / sizes[pillow]:.3f} of Pillow's"}
    ours, theirs = (tuple(rates[encode]) for encode in (images.encode, pillow))
    return [Comparison("PNG encode", "Pillow", "images/s", ours, theirs, setting, notes)]


if __name__ == "__main__":
    show(compare(arguments()))
