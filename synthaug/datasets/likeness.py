"""Near-duplicate films: a perceptual hash proposes, aligned pixel correlation decides.

Chest films all look alike, so a hash alone would take strangers for twins: it only keeps the pairs that are
worth a look. The hash is pHash at 256 bits (Zauner 2010, "Implementation and Benchmarking of Perceptual Image
Hash Functions"): the signs of the 16 x 16 lowest frequencies, the mean left out, of the cosine transform of a
64 x 64 thumbnail. A pair is a near-duplicate when the correlation of the thumbnails' fine structure, best over
shifts of up to `SHIFT` pixels, is at least `correlation`. Copies that were compressed, resized or brightened, and
shifted by up to two per cent, are found; crops of several per cent, rotations and mirrored copies are not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.fft import dctn, irfft2, rfft2
from scipy.ndimage import gaussian_filter

from synthaug.datasets.decode import Progress, in_threads
from synthaug.datasets.formats.listing import AnyFilm
from synthaug.errors import ImageError
from synthaug.images import read, resize

SIZE = 64
BITS = 256
SHIFT = 4
CORRELATION = 0.9
DISTANCE = 80  # of 256 bits; strangers lie around 128

_TILE = 2048
_COARSE = 4.0  # thumbnail pixels; wider structure is what all chests share


class Pair(NamedTuple):
    """Film `first` of one part and film `second` of the other, and how alike they are, 0 to 1."""

    first: int
    second: int
    correlation: float


@dataclass(frozen=True, slots=True)
class Prints:
    """What is kept of films to compare them.

    Args:
        hashes: (n, 4) uint64.
        fine: (n, SIZE, SIZE) float16, the thumbnails' fine structure, zero mean and unit norm.
    """

    hashes: np.ndarray
    fine: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)


def prints_of(films: Sequence[AnyFilm], progress: Progress | None = None) -> Prints:
    """The prints of films; each is decoded once.

    Raises:
        ImageError: one cannot be read; the message names it.
    """
    thumbnails = np.empty((len(films), SIZE, SIZE), np.uint8)

    def take(place: int) -> None:
        try:
            thumbnails[place] = resize(read(films[place].source()), SIZE, "squash")
        except ImageError as error:
            name = films[place].name
            raise ImageError(str(error) if name in str(error) else f"{name}: {error}") from error

    in_threads(take, len(films), progress)
    return _of_thumbnails(thumbnails)


def prints_of_images(images: np.ndarray) -> Prints:
    """The prints of films that are decoded already, uint8 (n, s, s)."""
    thumbnails = np.empty((len(images), SIZE, SIZE), np.uint8)
    for place, image in enumerate(images):
        thumbnails[place] = resize(image, SIZE, "squash")
    return _of_thumbnails(thumbnails)


def _of_thumbnails(thumbnails: np.ndarray) -> Prints:
    blocks = [thumbnails[start : start + _TILE] for start in range(0, max(1, len(thumbnails)), _TILE)]
    return Prints(
        np.concatenate([hashes(block) for block in blocks]),
        np.concatenate([fine_structure(block).astype(np.float16) for block in blocks]),
    )


def hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Perceptual hashes, (n, 4) uint64, of (n, SIZE, SIZE) thumbnails."""
    frequencies = dctn(thumbnails.astype(np.float32), axes=(1, 2), norm="ortho")[:, :17, :17]
    # 16 x 16 without the first row and column: slopes of brightness over the film are the exposure's.
    signs = frequencies[:, 1:, 1:].reshape(len(thumbnails), BITS) > 0
    return np.packbits(signs, axis=1).view(np.uint64)


def fine_structure(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails without their wide structure, each of zero mean and unit norm, float32; a flat film is 0."""
    values = thumbnails.astype(np.float32)
    values -= gaussian_filter(values, (0, _COARSE, _COARSE))
    values -= values.mean(axis=(1, 2), keepdims=True)
    norms = np.linalg.norm(values, axis=(1, 2), keepdims=True)
    unit: np.ndarray = np.divide(values, norms, out=np.zeros_like(values), where=norms > 1e-3)
    return unit


def near_pairs(
    one: Prints, other: Prints | None = None, correlation: float = CORRELATION, distance: int = DISTANCE
) -> list[Pair]:
    """Near-duplicate pairs between two parts, or within one (`first` < `second`), the most alike first.

    Args:
        one: prints of a part.
        other: prints of another; those of `one` when None.
        correlation: least correlation of a near-duplicate.
        distance: most bits by which the hashes of a proposed pair differ.
    """
    found = [
        Pair(i, j, value)
        for i, j in candidates(one.hashes, one.hashes if other is None else other.hashes, distance)
        if (other is not None or i < j)
        and (value := aligned_correlation(one.fine[i], (other or one).fine[j])) >= correlation
    ]
    return sorted(found, key=lambda pair: (-pair.correlation, pair.first, pair.second))


def candidates(one: np.ndarray, other: np.ndarray, distance: int) -> Iterator[tuple[int, int]]:
    """Pairs of hashes that differ by at most `distance` bits, tile by tile: memory stays bounded."""
    for top in range(0, len(one), _TILE):
        for left in range(0, len(other), _TILE):
            a, b = one[top : top + _TILE], other[left : left + _TILE]
            bits = np.zeros((len(a), len(b)), np.uint16)
            for word in range(a.shape[1]):
                bits += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
            for i, j in np.argwhere(bits <= distance):
                yield top + int(i), left + int(j)


def aligned_correlation(a: np.ndarray, b: np.ndarray, shift: int = SHIFT) -> float:
    """The correlation of two fine structures at the best shift of up to `shift` pixels either way.

    The shift is where their cross-correlation (by the Fourier transform) peaks; the overlap there is centred
    and normalised anew, so that what the shift leaves outside does not count. 0 for a flat film.
    """
    size, padded = a.shape[0], a.shape[0] + 2 * shift
    left, right = a.astype(np.float32), b.astype(np.float32)
    crossed = irfft2(
        rfft2(left, (padded, padded)) * np.conj(rfft2(right, (padded, padded))), (padded, padded)
    )
    moves = np.arange(-shift, shift + 1)
    window = crossed[np.ix_(moves, moves)]
    down, across = (int(moves[place]) for place in np.unravel_index(np.argmax(window), window.shape))
    height, width = size - abs(down), size - abs(across)
    x = left[max(0, down) : max(0, down) + height, max(0, across) : max(0, across) + width]
    y = right[max(0, -down) : max(0, -down) + height, max(0, -across) : max(0, -across) + width]
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float((x * y).sum()) / norm if norm > 1e-6 else 0.0
