"""DICOM radiographs: grey values against pydicom's own, what is refused, and the header."""

import contextlib
import io
import warnings

import numpy as np
import pydicom
import pytest
from dicom_samples import dicom, put_dicom
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from synthaug import images
from synthaug.errors import ImageError
from synthaug.images.dicom import header, window

RAMP = (np.arange(40 * 50, dtype=np.uint16) * 2 % 4096).reshape(40, 50)


def encoded(dataset: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor((values - low) / (high - low) * 255 + 0.5)


def test_without_a_window_the_stored_bits_are_the_range():
    read = images.read(encoded(dicom(RAMP, BitsStored=12)))
    np.testing.assert_array_equal(read, grey(RAMP, 0, 4095))
    scaled = images.read(encoded(dicom(RAMP, BitsStored=12, RescaleSlope=2, RescaleIntercept=-100)))
    np.testing.assert_array_equal(scaled, read)  # a linear rescale moves the range with the values
    signed = (RAMP.astype(np.int16) - 2048) // 2
    np.testing.assert_array_equal(
        images.read(encoded(dicom(signed, BitsStored=12))), grey(signed, -2048, 2047)
    )


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, -20)])
def test_a_window_gives_what_pydicom_gives(function, slope, intercept):
    dataset = dicom(
        RAMP, BitsStored=12, WindowCenter=["900", "40"], WindowWidth=["700", "80"], VOILUTFunction=function,
        RescaleSlope=slope, RescaleIntercept=intercept,
    )  # fmt: skip
    theirs = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = intercept, 4095 * slope + intercept
    assert np.abs(images.read(encoded(dataset)) - grey(theirs, low, high)).max() <= 1


def test_a_voi_lut_goes_before_the_window():
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table.LUTData = np.arange(4096)[::-1].tolist()
    dataset = dicom(RAMP, BitsStored=12, WindowCenter=1, WindowWidth=2)
    dataset.VOILUTSequence = [table]
    dataset["VOILUTSequence"][0]["LUTDescriptor"].VR = "US"
    dataset["VOILUTSequence"][0]["LUTData"].VR = "US"
    np.testing.assert_array_equal(images.read(encoded(dataset)), grey(4095 - RAMP, 0, 4095))


def test_monochrome1_is_turned_round_and_padding_is_air():
    film = np.array([[0, 255, 30, 200]], np.uint8)
    turned = images.read(encoded(dicom(film, PhotometricInterpretation="MONOCHROME1")))
    np.testing.assert_array_equal(turned, 255 - film)
    padded = dicom(film, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    np.testing.assert_array_equal(images.read(encoded(padded)), [[0, 0, 225, 55]])


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_changes_no_pixel(syntax):
    if syntax == JPEG2000Lossless:
        pytest.importorskip("openjpeg", reason="no JPEG 2000 encoder")
    film = (RAMP // 16).astype(np.uint8)
    dataset = dicom(film)
    dataset.compress(syntax)
    np.testing.assert_array_equal(images.read(encoded(dataset)), film)


def test_lossy_jpeg_inside_dicom_is_decoded(tiny_radiographs):
    film = tiny_radiographs(1)[0][0, 0]
    dataset = dicom(film)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = pydicom.encaps.encapsulate([images.encode(film, "jpeg")])
    dataset["PixelData"].VR = "OB"
    assert np.abs(images.read(encoded(dataset)).astype(int) - film).mean() < 3


def test_colour_becomes_luma():
    colour = np.stack([RAMP // 16, RAMP // 32, RAMP // 64], axis=-1).astype(np.uint8)
    expected = colour @ [0.299, 0.587, 0.114]
    assert np.abs(images.read(encoded(dicom(colour))) - expected).max() <= 1


def several_frames() -> pydicom.Dataset:
    dataset = dicom(np.zeros((8, 8), np.uint8), NumberOfFrames=3)
    dataset.PixelData = bytes(3 * 64)
    return dataset


def deflated() -> pydicom.Dataset:
    dataset = dicom(np.zeros((8, 8), np.uint8))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    return dataset


def huge() -> pydicom.Dataset:
    dataset = dicom(np.zeros((8, 8), np.uint8))
    dataset.Rows = dataset.Columns = 60_000
    return dataset


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (several_frames, "found 3 frames, expected one radiograph a file"),
        (deflated, "deflated DICOM file is not read"),
        (huge, "60000 x 60000 pixels, at most"),
    ],
)
def test_what_is_refused_is_named(tmp_path, make, message):
    path = tmp_path / "film-7.dcm"
    path.write_bytes(encoded(make()))
    with pytest.raises(ImageError, match=f"film-7.dcm: .*{message}"):
        images.read(path)


def test_a_syntax_without_a_decoder_names_the_remedy(tmp_path):
    dataset = dicom(np.zeros((8, 8), np.uint8))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(64)])
    dataset["PixelData"].VR = "OB"
    with pytest.raises(ImageError, match=r"compressed as MPEG2.*pip install 'synthaug\[dicom\]'"):
        images.read(encoded(dataset))


def test_the_header_is_read_without_pixels(tmp_path):
    path = put_dicom(
        tmp_path / "a.dcm", PatientID="p7", PatientSex="F", PatientAge="058Y", ViewPosition="PA",
        BurnedInAnnotation="YES", ImageType=["DERIVED", "PRIMARY"],
    )  # fmt: skip
    found = header(path)
    assert found.burned_in is True and found.values["PatientAge"] == "058Y"
    assert found.values["ImageType"] == "DERIVED\\PRIMARY" and "ImageComments" not in found.values
    assert header(put_dicom(tmp_path / "b.dcm")).burned_in is None
    (tmp_path / "c.dcm").write_bytes(b"no")
    with pytest.raises(ImageError, match=r"c.dcm: not a DICOM file"):
        header(tmp_path / "c.dcm")


def test_windows_that_cannot_be():
    for function, width in (("LINEAR", 0.5), ("LINEAR_EXACT", 0), ("CUBIC", 10)):
        with pytest.raises(ValueError, match="VOI LUT function"):
            window(np.zeros(3), 1, width, function)


@given(
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6), st.floats(0.1, 1)
)
def test_a_damaged_dicom_is_an_image_error_or_an_image(changes, kept):
    data = bytearray(encoded(dicom(RAMP, BitsStored=12, WindowCenter=900, WindowWidth=700)))
    for place, byte in changes:
        data[int(place * len(data))] = byte
    data = data[: int(kept * len(data))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImageError):
            assert images.read(bytes(data)).dtype == np.uint8
