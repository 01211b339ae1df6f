"""Many films as one picture."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synthaug.errors import ImageError

_CAPTION = 16
_GAP = 2


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


def _caption(text: str, width: int) -> np.ndarray:
    strip = Image.new("L", (width, _CAPTION))
    ImageDraw.Draw(strip).text((2, 2), text.splitlines()[0] if text else "", fill=255, font=_font())
    return np.asarray(strip)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default()
