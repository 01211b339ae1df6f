"""Bringing a film to a square."""

import numpy as np
from PIL import Image

from synthaug.errors import UnknownNameError
from synthaug.images.writing import one_grey


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
    height, width = one_grey(image).shape
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
