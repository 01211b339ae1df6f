"""The mark of a synthetic picture inside its file: IPTC's digital source type, as XMP.

Reference: IPTC Photo Metadata Standard 2023.1, "Digital Source Type", and its NewsCodes; the Extensible
Metadata Platform puts the packet into an `iTXt` chunk of a PNG (ISO 16684-1, XMP part 3).
"""

from synthaug.errors import ImageError
from synthaug.images.writing import SIGNATURE, chunk

SYNTHETIC_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_KEYWORD = b"XML:com.adobe.xmp"
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{SYNTHETIC_SOURCE}"/></rdf:RDF></x:xmpmeta>'
)
_AFTER_HEADER = len(SIGNATURE) + 25  # the IHDR chunk has 13 bytes of data and 12 around them


def mark_png(data: bytes) -> bytes:
    """The same PNG, pixel for pixel, saying that a trained algorithm made it.

    Raises:
        ImageError: not a PNG.
    """
    if not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        raise ImageError("image: found something else, expected a PNG to mark as synthetic")
    if _KEYWORD in data[_AFTER_HEADER : _AFTER_HEADER + 64]:
        return data
    # keyword, no compression flag and method, no language, no translated keyword, text
    text = _KEYWORD + b"\0" + b"\0\0" + b"\0" + b"\0" + _XMP.encode()
    return data[:_AFTER_HEADER] + chunk(b"iTXt", text) + data[_AFTER_HEADER:]
