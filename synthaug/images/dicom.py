"""Reading one DICOM radiograph, and what its header says.

Stored values become grey in the order of DICOM PS3.3 C.11: modality LUT or rescale, then VOI LUT, or else the
first window, or else the bit range (`BitsStored` after rescale); then MONOCHROME1 (0 is white) is turned
round. Pixels of the padding value are air: black. Compressed transfer syntaxes go through whatever plugins
pydicom finds. Several frames, and deflated files, which cannot be bounded before they are unpacked, are
refused.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from synthaug.errors import ImageError, NotInstalledError

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_META = 1 << 16  # the file meta group ends long before
_HEADER = (
    "PatientID", "PatientSex", "PatientAge", "ViewPosition", "Modality", "BurnedInAnnotation",
    "NumberOfFrames", "PhotometricInterpretation", "ImageComments", "SOPInstanceUID", "StudyInstanceUID",
    "SeriesDescription", "BodyPartExamined", "ImageType",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a DICOM file says of a film.

    Args:
        values: DICOM keyword -> text, those that are there and not empty; several values joined by "\\".
        burned_in: whether text is said to be burned into the pixels; None when the header does not say.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    burned_in: bool | None = None


def header(path: str | Path) -> Header:
    """The header of a DICOM file; no pixel is read.

    Raises:
        NotInstalledError: pydicom is not installed.
        ImageError: not a DICOM file, or a damaged one.
    """
    dcmread = _pydicom().dcmread
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER))
        # As written, without pydicom's conversion: an age of "51" is no valid DICOM, and yet common.
        found = {name: _text(dataset.get_item(name)) for name in _HEADER}
    except Exception as error:  # a damaged file makes pydicom raise nearly anything
        raise ImageError(f"{path}: not a DICOM file that can be read ({_told(error)})") from error
    values = {name: text for name, text in found.items() if text}
    flag = values.get("BurnedInAnnotation", "").upper()
    return Header(values, {"YES": True, "NO": False}.get(flag))


def read_dicom(file: str | Path | BinaryIO, name: str, max_pixels: int) -> np.ndarray:
    """The one frame of a DICOM file as grey.

    Args:
        file: a path, or a file open for reading.
        name: what messages call it.
        max_pixels: refuse more, before anything is decompressed.

    Returns:
        (H, W) uint8.

    Raises:
        NotInstalledError: pydicom is not installed.
        ImageError: damaged, several frames, too large, or compressed in a way that no plugin here decodes.
    """
    dcmread = _pydicom().dcmread
    try:
        data = Path(file).read_bytes() if isinstance(file, str | Path) else file.read()
        if _deflated(data):
            raise ImageError(f"{name}: a deflated DICOM file is not read; `dcmconv +te` writes a plain one")
        dataset = dcmread(io.BytesIO(data))
        _bounded(dataset, name, max_pixels)
        return _grey(dataset, name)
    except (ImageError, NotInstalledError):
        raise
    except Exception as error:  # a damaged file makes pydicom and its plugins raise nearly anything
        raise ImageError(f"{name}: damaged DICOM ({_told(error)})") from error


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values through a VOI window, 0 to 1, as in DICOM PS3.3 C.11.2.1.2.

    Raises:
        ValueError: a width that the function does not allow, or another function.
    """
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR" and width >= 1:
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT" or width <= 0:
        raise ValueError(f"VOI LUT function {function!r} with window width {width:g}")
    if width == 0:
        return (values > centre).astype(float)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _grey(dataset: Any, name: str) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    photometric = str(dataset.get("PhotometricInterpretation", ""))
    try:
        stored = dataset.pixel_array
    except (NotImplementedError, RuntimeError) as error:
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise ImageError(
            f"{name}: compressed as {syntax}, which nothing installed here decodes ({_told(error)}); "
            "pip install 'synthaug[dicom]', and pylibjpeg-libjpeg for lossless JPEG"
        ) from error
    if stored.ndim == 3 and stored.shape[-1] == 3:
        return _luma(stored, photometric, name)
    if stored.ndim != 2 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(
            f"{name}: found {photometric or 'no'} pixels of shape {stored.shape}, expected one grey frame"
        )
    values = np.asarray(apply_modality_lut(stored, dataset), dtype=float)
    grey = _voi(values, dataset)
    if photometric == "MONOCHROME1":
        grey = 1 - grey
    grey[_padding(stored, dataset)] = 0
    return np.floor(grey * 255 + 0.5).astype(np.uint8)


def _voi(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Values after the modality step, brought to 0..1."""
    from pydicom.pixels import apply_voi

    luts = dataset.get("VOILUTSequence")
    if luts:
        top = (1 << int(luts[0].LUTDescriptor[2])) - 1
        return np.clip(np.asarray(apply_voi(values.astype(np.int64), dataset), dtype=float) / top, 0, 1)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is not None and width is not None:
        return window(values, centre, width, str(dataset.get("VOILUTFunction") or "LINEAR").upper())
    low, high = _range(dataset)
    if values.min() < low or values.max() > high:  # a modality LUT has a range of its own
        low, high = min(0.0, float(values.min())), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _range(dataset: Any) -> tuple[float, float]:
    bits = int(dataset.BitsStored)
    signed = bool(dataset.PixelRepresentation)
    ends = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    low, high = sorted(slope * end + intercept for end in ends)
    return low, high


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _luma(stored: np.ndarray, photometric: str, name: str) -> np.ndarray:
    from PIL import Image
    from pydicom.pixels import convert_color_space

    if stored.dtype != np.uint8:
        raise ImageError(f"{name}: found {stored.dtype} colour, expected 8 bit")
    if photometric.startswith("YBR"):
        stored = convert_color_space(stored, photometric, "RGB")
    return np.array(Image.fromarray(stored).convert("L"))


def _bounded(meta: Any, name: str, max_pixels: int) -> None:
    rows, columns, frames = int(meta.Rows), int(meta.Columns), int(meta.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(
            f"{name}: found {frames} frames, expected one radiograph a file; save the frame you mean alone"
        )
    if rows * columns > max_pixels:
        raise ImageError(f"{name}: found {columns} x {rows} pixels, at most {max_pixels} are read")


def _deflated(data: bytes) -> bool:
    """Whether the file meta group names the deflated transfer syntax; asked before pydicom unpacks it."""
    return _DEFLATED in data[:_META]


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value if isinstance(value, int | float | str) else value[0])
    return number if math.isfinite(number) else None


def _text(element: Any) -> str:
    value = None if element is None else element.value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip(" \0")
    return "" if value is None else str(value).strip()


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise NotInstalledError("DICOM files are read by pydicom; pip install 'synthaug[dicom]'") from error
    return pydicom
