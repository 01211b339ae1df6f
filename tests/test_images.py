import contextlib
import io
import struct
import tracemalloc
import warnings
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from synthaug import images
from synthaug.errors import ImageError, UnknownNameError


def saved(picture, format="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def film(tiny_radiographs):
    return tiny_radiographs(1, size=96)[0][0, 0]


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_png_is_lossless_for_us_and_for_pillow(image):
    data = images.encode(image)
    np.testing.assert_array_equal(images.decode(data), image)
    picture = Image.open(io.BytesIO(data))
    assert (picture.mode, picture.info) == ("L", {})
    picture.verify()


def test_png_has_three_chunks_and_the_same_bytes_each_time(film):
    data = images.encode(film)
    kinds, at = [], 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kinds.append(data[at + 4 : at + 8])
        assert (
            zlib.crc32(data[at + 4 : at + 8 + size])
            == struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0]
        )
        at += 12 + size
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    assert data == images.encode(np.asfortranarray(film))


def test_png_is_about_as_small_as_pillows(tiny_radiographs):
    film = tiny_radiographs(1, size=512)[0][0, 0]
    assert len(images.encode(film)) < 1.15 * len(saved(Image.fromarray(film)))


@pytest.mark.parametrize(("format", "ending"), [("jpeg", "jpg"), ("webp", "webp")])
def test_lossy_formats_stay_near(film, format, ending):
    data = images.encode(film, format, quality=95)
    back = images.decode(data)
    assert back.shape == film.shape
    assert np.abs(back.astype(int) - film).mean() < 3
    assert len(images.encode(film, format, quality=40)) < len(data)
    assert images.extension(format) == ending
    assert Image.open(io.BytesIO(data)).format == format.upper()


def test_unknown_formats_and_fits_are_refused(film):
    for call in (
        lambda: images.encode(film, "tiff"),
        lambda: images.extension("jpg"),
        lambda: images.resize(film, 8, "fit"),
    ):
        with pytest.raises(UnknownNameError):
            call()


@pytest.mark.parametrize("top", [255, 256, 1023, 4095, 40_000, 65_535])
def test_16_bit_is_scaled_by_its_own_bit_range(top):
    values = np.linspace(0, top, 300).round().astype(np.uint16).reshape(15, 20)
    full = 2 ** max(8, int(top).bit_length()) - 1
    read = images.read(saved(Image.fromarray(values)))
    np.testing.assert_array_equal(read, np.floor(values * 255.0 / full + 0.5))
    assert read.dtype == np.uint8


def test_tiff(film):
    np.testing.assert_array_equal(images.read(saved(Image.fromarray(film), "TIFF")), film)
    packed = saved(Image.fromarray(film), "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(images.read(packed), film)
    deep = film.astype(np.uint16) * 257
    np.testing.assert_array_equal(images.read(saved(Image.fromarray(deep), "TIFF")), film)
    # Where 0 is white: Pillow turns 8 bit round when it writes, and leaves 16 bit as it is.
    for picture, expected in ((film, film), (deep, 255 - film)):
        white = saved(Image.fromarray(picture), "TIFF", tiffinfo={262: 0})
        np.testing.assert_array_equal(images.read(white), expected)


def test_a_colour_photograph_is_told_from_a_film(film):
    photograph = np.stack([film, film // 2, film // 4], axis=-1)
    stored = saved(Image.fromarray(np.stack([film] * 3, axis=-1)), "JPEG", quality=60)
    assert images.is_colour(saved(Image.fromarray(photograph), "JPEG"))
    assert not images.is_colour(stored) and not images.is_colour(images.encode(film))
    with pytest.raises(ImageError, match="damaged"):
        images.is_colour(b"no image")


def test_the_mark_of_a_synthetic_png_changes_no_pixel(film):
    data = images.encode(film)
    marked = images.mark_png(data)
    np.testing.assert_array_equal(images.read(marked), film)
    assert images.mark_png(marked) == marked != data
    picture = Image.open(io.BytesIO(marked))
    picture.verify()
    packet = ElementTree.fromstring(Image.open(io.BytesIO(marked)).info["XML:com.adobe.xmp"])
    (description,) = packet.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == kind
    with pytest.raises(ImageError, match="expected a PNG"):
        images.mark_png(images.encode(film, "jpeg"))


def test_colour_becomes_luma(film):
    colour = np.stack([film, film // 2, film // 4], axis=-1)
    expected = colour @ [0.299, 0.587, 0.114]
    assert np.abs(images.read(saved(Image.fromarray(colour))) - expected).max() <= 1
    photograph = images.read(saved(Image.fromarray(colour), "JPEG", quality=98))
    assert np.abs(photograph - expected).mean() < 2


def test_transparency_lies_over_black(film):
    clear = np.dstack([film, film, film, np.zeros_like(film)])
    assert images.read(saved(Image.fromarray(clear))).max() == 0
    half = Image.merge("LA", [Image.fromarray(film), Image.new("L", film.shape[::-1], 128)])
    assert np.abs(images.read(saved(half)).astype(int) - film / 2).max() <= 2
    palette = Image.fromarray(film).convert("P")
    np.testing.assert_array_equal(images.read(saved(palette)), film)
    assert set(np.unique(images.read(saved(Image.fromarray(film > 99))))) == {0, 255}


def test_the_orientation_of_a_camera_is_applied(film):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is on the right
    data = saved(Image.fromarray(film[:60]), "PNG", exif=exif)
    np.testing.assert_array_equal(images.read(data), np.rot90(film[:60], -1))


def test_sources(tmp_path, film):
    path = tmp_path / "film.png"
    path.write_bytes(images.encode(film))
    with open(path, "rb") as file:
        np.testing.assert_array_equal(images.read(file), film)
    np.testing.assert_array_equal(images.read(str(path)), images.read(path))
    with pytest.raises(ImageError, match=r"none\.png: cannot be read \(No such file"):
        images.read(tmp_path / "none.png")


def bomb():
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"not an image at all", "expected PNG, JPEG, WebP, TIFF or DICOM"),
        (saved(Image.new("L", (8, 8)), "GIF"), "expected PNG, JPEG, WebP, TIFF or DICOM"),
        (saved(Image.new("F", (8, 8)), "TIFF"), "floating-point pixels, expected 8 or 16 bit"),
        (
            saved(Image.new("L", (8, 8)), "TIFF", save_all=True, append_images=[Image.new("L", (8, 8), 9)]),
            "found 2 frames, expected one film a file",
        ),
        (saved(Image.effect_noise((99, 99), 50))[:-999], "truncated"),
        (saved(Image.effect_noise((99, 99), 50), "JPEG")[:-999], "truncated"),
        (bomb(), "400000000 pixels"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, data, message):
    path = tmp_path / "film-7.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"film-7.png.*{message}"):
        images.read(path)


@given(
    st.sampled_from(images.FORMATS),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_damaged_image_is_an_image_error_or_an_image(format, changes):
    data = bytearray(images.encode(np.arange(480, dtype=np.uint16).reshape(20, 24).astype(np.uint8), format))
    for place, byte in changes:
        data[int(place * len(data))] = byte
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it mends
        with contextlib.suppress(ImageError):
            assert images.read(bytes(data)).dtype == np.uint8


def test_resize_squash_crop_and_pad():
    image = np.zeros((40, 80), np.uint8)
    image[:, 40:] = 200
    squashed, cropped, padded = (images.resize(image, 40, fit) for fit in ("squash", "crop", "pad"))
    for result in (squashed, cropped, padded):
        assert (result.shape, result.dtype) == ((40, 40), np.uint8)
        assert abs(float(result[20, 5]) - 0) < 2 and abs(float(result[20, 34]) - 200) < 2
    np.testing.assert_array_equal(cropped, image[:, 20:60])
    assert not padded[:10].any() and not padded[30:].any() and padded[15, 30] == 200


@pytest.mark.parametrize("shape", [(41, 80), (80, 41), (3, 900), (37, 37)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_resize_gives_a_square_of_the_mean(shape, fit):
    result = images.resize(np.full(shape, 77, np.uint8), 32, fit)
    assert result.shape == (32, 32)
    assert set(np.unique(result)) <= {0, 77} if fit == "pad" else (result == 77).all()


def test_resize_is_antialiased_and_never_aliases_its_input(film):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert np.abs(images.resize(stripes, 16)[:, 2:-2].astype(int) - 127).max() <= 2
    same = images.resize(film, film.shape[0])
    same[:] = 0
    assert film.any()


def test_contact_sheet(tiny_radiographs):
    films = tiny_radiographs(5, size=32)[0]
    sheet = images.contact_sheet(films, columns=3)
    assert sheet.shape == (2 + 2 * 34, 2 + 3 * 34)
    np.testing.assert_array_equal(sheet[2:34, 36:68], films[1, 0])
    np.testing.assert_array_equal(sheet[36:68, 2:34], films[3, 0])
    captioned = images.contact_sheet(
        films, 3, ["edema"] * 4 + ["a caption much longer than the film is wide"]
    )
    np.testing.assert_array_equal(captioned[2:34, 36:68], films[1, 0])
    assert captioned[34:50, 2:34].max() > 200


@pytest.mark.parametrize(
    "batch", [np.zeros((2, 32, 32), np.uint8), np.zeros((0, 1, 8, 8), np.uint8), np.zeros((1, 1, 8, 8))]
)
def test_contact_sheet_wants_a_batch(batch):
    with pytest.raises(ImageError, match=r"expected uint8 \(B, 1, H, W\)"):
        images.contact_sheet(batch)
    with pytest.raises(ImageError, match="1 captions for 2 images"):
        images.contact_sheet(np.zeros((2, 1, 8, 8), np.uint8), captions=["x"])


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8)), np.zeros((1, 8, 8), np.uint8), np.zeros((0, 8), np.uint8)]
)
def test_encode_and_resize_want_one_grey_image(image):
    with pytest.raises(ImageError, match=r"expected uint8 \(H, W\)"):
        images.encode(image)
    with pytest.raises(ImageError, match=r"expected uint8 \(H, W\)"):
        images.resize(image, 8)


def test_real_films_survive_the_encoder(films):
    for path in sorted((films / "nih-sample" / "images").iterdir())[:20]:
        film = images.read(path)
        np.testing.assert_array_equal(images.decode(images.encode(film)), film)


def test_a_film_of_16_bit_takes_little_more_memory_than_its_pixels():
    """A few bytes can claim a film of 179 million pixels; found by benchmarks/fuzz_readers.py."""
    film = (np.arange(2500 * 1000) % 4096).astype(np.uint16).reshape(2500, 1000)
    data = saved(Image.fromarray(film))
    tracemalloc.start()
    read = images.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(read, (film.astype(int) * 255 + 2047) // 4095)
    assert peak < 40_000_000  # 8 bytes a pixel, and one block of 2**20 pixels at 64 bits, twice
