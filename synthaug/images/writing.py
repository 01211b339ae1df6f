"""Encoding a film, without metadata."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from synthaug.errors import ImageError, UnknownNameError

FORMATS = ("png", "jpeg", "webp")
# What decides the bytes of a PNG, for the record of a run's execution.
PNG_ENCODER = f"up filter, zlib {zlib.ZLIB_RUNTIME_VERSION} run-length"
SIGNATURE = b"\x89PNG\r\n\x1a\n"

_FILTER_UP = 2


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
    one_grey(image)
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


def one_grey(image: np.ndarray) -> np.ndarray:
    """The image, once it is sure that it is one.

    Raises:
        ImageError: not an (H, W) uint8 image.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ImageError(f"image: found {image.dtype} {image.shape}, expected uint8 (H, W)")
    return image


def _png(image: np.ndarray) -> bytes:
    height, width = image.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = image[0]
    np.subtract(image[1:], image[:-1], out=rows[1:, 1:])
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = squeeze.compress(rows.data) + squeeze.flush()
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG: length, kind, data, CRC-32."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
