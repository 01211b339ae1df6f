"""Reading a film as grey.

A 16-bit file is scaled by its own bit range, the smallest of 8, 9, ... 16 bits that holds its brightest
pixel, so that a 12-bit film in a 16-bit file is neither dark nor clipped. Colour becomes luma (ITU-R 601),
transparency lies over black, and the orientation that a camera wrote is applied. DICOM is read by
`synthaug.images.dicom`, which has its own, richer, rules.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from synthaug.errors import ImageError

MAX_PIXELS = 178_956_970  # Pillow's own bound against decompression bombs
EXPECTED = "PNG, JPEG, WebP, TIFF or DICOM"

_PREAMBLE = 128
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_AT_ONCE = 1 << 20  # pixels that are widened together: a few bytes may claim a film of `MAX_PIXELS`
_COLOURLESS = 12  # grey levels by which the channels of a grey film, stored as a colour JPEG, may differ


def read(source: str | Path | bytes | BinaryIO) -> np.ndarray:
    """Read a PNG (8 or 16 bit), JPEG, WebP, TIFF (one page) or DICOM (one frame) as grey.

    Args:
        source: a path, an encoded image, or a file open for reading.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: missing, not one of these formats, damaged, several frames, or more than `MAX_PIXELS`.
    """
    name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "image"))
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if _is_dicom(file):
            from synthaug.images.dicom import read_dicom

            return read_dicom(file, name, MAX_PIXELS)
        with Image.open(file, formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            _check(image, name)
            image.load()
            return _grey(ImageOps.exif_transpose(image), _inverted(image))
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that can be read; expected {EXPECTED}") from error
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror or error})") from error
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:
        raise ImageError(f"{name}: damaged ({error})") from error
    except (OverflowError, RuntimeError, AttributeError, MemoryError) as error:
        raise ImageError(f"{name}: damaged ({type(error).__name__}: {error})") from error


decode = read


def is_colour(source: str | Path | bytes) -> bool:
    """Whether an image's channels differ by more than compression explains: a photograph, not a film.

    Raises:
        ImageError: it cannot be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if _is_dicom(file):
            return False
        with Image.open(file, formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            if image.mode not in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
                return False
            image.draft("RGB", (64, 64))
            image.thumbnail((64, 64))
            pixels = np.asarray(image.convert("RGB")).astype(int)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise ImageError(
            f"{source if isinstance(source, str | Path) else 'image'}: damaged ({error})"
        ) from error
    return bool(np.ptp(pixels, axis=2).mean() > _COLOURLESS)


def _is_dicom(file: str | Path | BinaryIO) -> bool:
    if isinstance(file, str | Path):
        with open(file, "rb") as opened:
            return opened.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    if not file.seekable():
        return False
    start = file.tell()
    head = file.read(_PREAMBLE + 4)
    file.seek(start)
    return head[_PREAMBLE:] == b"DICM"


def _check(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name}: found {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"{name}: found {frames} frames, expected one film a file; save one frame alone")
    if image.mode == "F":
        raise ImageError(f"{name}: found floating-point pixels, expected 8 or 16 bit; save it as 16-bit PNG")


def _inverted(image: Image.Image) -> bool:
    """Whether a 16-bit TIFF counts from white to black, which Pillow mends at 8 bit only."""
    tiff = isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode.startswith("I")
    return tiff and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # type: ignore[attr-defined]


def _grey(image: Image.Image, inverted: bool) -> np.ndarray:
    if image.mode.startswith("I"):
        values = np.asarray(image)
        top = int(values.max(initial=0))
        if values.min(initial=0) < 0 or top > 0xFFFF:
            raise ValueError(f"pixel values {values.min()} to {top}, expected 8 or 16 bit")
        full = (1 << max(8, top.bit_length())) - 1
        grey = np.empty(values.shape, np.uint8)
        rows = max(1, _AT_ONCE // max(1, values.shape[1]))
        for start in range(0, len(values), rows):
            block = values[start : start + rows].astype(np.int64)
            grey[start : start + rows] = (block * 255 + full // 2) // full
        return 255 - grey if inverted else grey
    if "A" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return np.array(image.convert("L"))
