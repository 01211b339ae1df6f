"""Images: the only read, resize, grey and encode.

An image between rooms is uint8, 0 black (air) to 255 white (bone): (H, W) for one, (B, 1, H, W) for a batch.
A 16-bit file is scaled by its own bit range, the smallest of 8, 9, ... 16 bits that holds its brightest
pixel, so that a 12-bit film in a 16-bit file is neither dark nor clipped. Colour becomes luma (ITU-R 601),
transparency lies over black, and the orientation that a camera wrote is applied.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from synthaug.errors import ImageError, UnknownNameError

FORMATS = ("png", "jpeg", "webp")
MAX_PIXELS = 178_956_970  # Pillow's own bound against decompression bombs
# What decides the bytes of a PNG, for the record of a run's execution.
PNG_ENCODER = f"up filter, zlib {zlib.ZLIB_RUNTIME_VERSION} run-length"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FILTER_UP = 2
_CAPTION = 16
_GAP = 2


def read(source: str | Path | bytes | BinaryIO) -> np.ndarray:
    """Read a PNG (8 or 16 bit), JPEG or WebP as grey.

    Args:
        source: a path, an encoded image, or a file open for reading.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: missing, not one of these formats, damaged, or more than `MAX_PIXELS`.
    """
    name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "image"))
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{name}: found {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read"
                )
            image.load()
            return _grey(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that can be read; expected PNG, JPEG or WebP") from error
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror or error})") from error
    except (ValueError, SyntaxError, EOFError, struct.error, zlib.error, OverflowError) as error:
        raise ImageError(f"{name}: damaged ({error})") from error


decode = read


def resize(image: np.ndarray, size: int, fit: str = "crop") -> np.ndarray:
    """Bring an image to (size, size), antialiased (Lanczos).

    Args:
        image: (H, W) uint8.
        size: pixels a side.
        fit: "crop" keeps the centre square, "pad" adds black to the short side, "squash" changes the aspect.

    Raises:
        ImageError: not an (H, W) uint8 image.
        UnknownNameError: another `fit`.
    """
    height, width = _one(image).shape
    if fit not in ("crop", "pad", "squash"):
        raise UnknownNameError("fit", fit, ("crop", "pad", "squash"))
    if (height, width) == (size, size):
        return image.copy()
    picture = Image.fromarray(image)
    if fit == "squash" or height == width:
        return np.array(picture.resize((size, size), Image.Resampling.LANCZOS))
    if fit == "crop":
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return np.array(picture.resize((size, size), Image.Resampling.LANCZOS, box=box))
    scale = size / max(height, width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    padded = np.zeros((size, size), np.uint8)
    left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
    padded[top : top + inner[1], left : left + inner[0]] = np.asarray(
        picture.resize(inner, Image.Resampling.LANCZOS)
    )
    return padded


def encode(image: np.ndarray, format: str = "png", quality: int = 95) -> bytes:
    """Encode an image, without metadata; equal images give equal bytes under equal libraries.

    PNG is lossless and about ten times as fast as Pillow's, at about its size (benchmarks/png_encode.py):
    one filter for every row, and run-length instead of searched matches, which film grain seldom has.

    Args:
        image: (H, W) uint8.
        format: one of `FORMATS`.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        ImageError: not an (H, W) uint8 image.
        UnknownNameError: another format.
    """
    _one(image)
    if format == "png":
        return _png(image)
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, quality=quality)
    return file.getvalue()


def extension(format: str) -> str:
    """The file name ending of a format: "png", "jpg" or "webp".

    Raises:
        UnknownNameError: another format.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    return "jpg" if format == "jpeg" else format


def contact_sheet(images: np.ndarray, columns: int = 8, captions: Sequence[str] | None = None) -> np.ndarray:
    """Many images as one, row by row.

    Args:
        images: (B, 1, H, W) uint8, B >= 1.
        columns: images a row, at most.
        captions: one line under each image; what is too long for its width is cut off.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: not such a batch, or another number of captions.
    """
    if images.ndim != 4 or images.shape[1] != 1 or not len(images) or images.dtype != np.uint8:
        raise ImageError(f"contact sheet: found {images.dtype} {images.shape}, expected uint8 (B, 1, H, W)")
    if captions is not None and len(captions) != len(images):
        raise ImageError(f"contact sheet: found {len(captions)} captions for {len(images)} images")
    count, _, height, width = images.shape
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    step = height + _GAP + (_CAPTION if captions else 0)
    sheet = np.zeros((rows * step + _GAP, columns * (width + _GAP) + _GAP), np.uint8)
    for i, image in enumerate(images[:, 0]):
        top, left = _GAP + i // columns * step, _GAP + i % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
        if captions:
            sheet[top + height : top + height + _CAPTION, left : left + width] = _caption(captions[i], width)
    return sheet


def _one(image: np.ndarray) -> np.ndarray:
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ImageError(f"image: found {image.dtype} {image.shape}, expected uint8 (H, W)")
    return image


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.int64)
        top = int(values.max(initial=0))
        if values.min(initial=0) < 0 or top > 0xFFFF:
            raise ValueError(f"pixel values {values.min()} to {top}, expected 8 or 16 bit")
        full = (1 << max(8, top.bit_length())) - 1
        return ((values * 255 + full // 2) // full).astype(np.uint8)
    if "A" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return np.array(image.convert("L"))


def _png(image: np.ndarray) -> bytes:
    height, width = image.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = image[0]
    np.subtract(image[1:], image[:-1], out=rows[1:, 1:])
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = squeeze.compress(rows.data) + squeeze.flush()
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _caption(text: str, width: int) -> np.ndarray:
    strip = Image.new("L", (width, _CAPTION))
    ImageDraw.Draw(strip).text((2, 2), text.splitlines()[0] if text else "", fill=255, font=_font())
    return np.asarray(strip)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default()
