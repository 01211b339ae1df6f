"""Images: the only read, resize, grey and encode.

An image between rooms is uint8, 0 black (air) to 255 white (bone): (H, W) for one, (B, 1, H, W) for a batch.
"""

from synthaug.images.marking import mark_png
from synthaug.images.reading import MAX_PIXELS, decode, is_colour, read
from synthaug.images.resizing import resize
from synthaug.images.sheet import contact_sheet
from synthaug.images.writing import FORMATS, PNG_ENCODER, encode, extension

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "PNG_ENCODER",
    "contact_sheet",
    "decode",
    "encode",
    "extension",
    "is_colour",
    "mark_png",
    "read",
    "resize",
]
