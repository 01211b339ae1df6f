"""The grey PNG encoder beside Pillow's default: time and size.

    python benchmarks/png_encode.py                      # drawn texture, 512 px
    python benchmarks/png_encode.py --films FOLDER       # real films, at their own size

Prints milliseconds and bytes an image, and the ratios. The decoded images are compared: both are lossless.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from synthaug import images


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Film-like noise, (size, size) uint8: the power of radiographs falls as 1/f^3; grain lies over it."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    spectrum = np.fft.rfft2(rng.normal(size=(size, size)))
    smooth = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / size) ** 1.5, s=(size, size))
    film = 128 + 45 * (smooth - smooth.mean()) / smooth.std() + rng.normal(0, 1.5, (size, size))
    return np.clip(film, 0, 255).astype(np.uint8)


def pillow(image: np.ndarray) -> bytes:
    """Pillow's PNG with its default settings."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def measure(
    encode: Callable[[np.ndarray], bytes], films: Sequence[np.ndarray], repeats: int
) -> tuple[float, float]:
    """Milliseconds (the best of `repeats` rounds over all films) and bytes an image."""
    rounds = []
    for _ in range(repeats):
        start = time.perf_counter()
        encoded = [encode(film) for film in films]
        rounds.append(time.perf_counter() - start)
    for film, data in zip(films, encoded, strict=True):
        if not np.array_equal(images.decode(data), film):
            raise SystemExit("the encoder is not lossless")
    return 1e3 * min(rounds) / len(films), sum(map(len, encoded)) / len(films)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--films", type=Path, help="a folder of PNG, JPEG or WebP films; drawn texture without it"
    )
    parser.add_argument("--count", type=int, default=16, help="images")
    parser.add_argument("--size", type=int, default=512, help="pixels a side of the drawn texture")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which the best counts")
    options = parser.parse_args()
    if options.films:
        paths = sorted(
            path for path in options.films.iterdir() if path.suffix in (".png", ".jpg", ".jpeg", ".webp")
        )
        films = [images.read(path) for path in paths[:: max(1, len(paths) // options.count)][: options.count]]
    else:
        rng = np.random.default_rng(0)
        films = [texture(rng, options.size) for _ in range(options.count)]
    slow, fast = measure(pillow, films, options.repeats), measure(images.encode, films, options.repeats)
    print(f"{len(films)} images, {films[0].shape[1]} x {films[0].shape[0]}; {images.PNG_ENCODER}")
    print(f"Pillow    {slow[0]:7.2f} ms {slow[1]:9.0f} bytes")
    print(f"synthaug  {fast[0]:7.2f} ms {fast[1]:9.0f} bytes")
    print(f"{slow[0] / fast[0]:.1f} x the speed, {fast[1] / slow[1]:.3f} x the size")


if __name__ == "__main__":
    main()
