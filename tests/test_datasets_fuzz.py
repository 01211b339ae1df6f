"""Damaged files of every kind that a data set holds: a SynthaugError comes out, or what is whole."""

import contextlib
import gzip
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_samples import put_dicom
from hypothesis import given
from hypothesis import strategies as st
from layout_samples import put_chexpert, put_image, put_mimic, put_padchest, put_table
from PIL import Image
from shard_samples import samples

from synthaug import shards
from synthaug.datasets.export import export
from synthaug.datasets.formats import read_folder
from synthaug.errors import SynthaugError
from synthaug.images import read
from synthaug.shards.tar import _plain

# Bytes overwritten at these places (0 to 1 of the file), and how much of the file is kept.
DAMAGE = st.tuples(
    st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), max_size=6), st.just(1.0) | st.floats(0, 1)
)


def damaged(data: bytes, damage: tuple[list[tuple[float, int]], float]) -> bytes:
    places, kept = damage
    changed = bytearray(data)
    for place, byte in places:
        changed[int(place * len(changed))] = byte
    return bytes(changed[: int(kept * len(changed))])


def exercise(root: Path) -> None:
    """Open a folder and decode every film; anything but a SynthaugError is a fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow and pydicom warn of what they mend
        with contextlib.suppress(SynthaugError):
            for film in read_folder(root).films:
                with contextlib.suppress(SynthaugError):
                    assert film.record.key
                    assert read(film.source()).dtype == np.uint8


def put_shards(root: Path) -> Path:
    root.mkdir(parents=True)
    shards.write_manifest(root, [shards.write_shard(root, 0, samples(4))])
    return root


def put_npz(root: Path) -> Path:
    root.mkdir(parents=True)
    films = {f"{part}_images": np.zeros((2, 28, 28), np.uint8) for part in ("train", "val", "test")}
    labels = {f"{part}_labels": np.ones((2, 1), np.uint8) for part in ("train", "val", "test")}
    np.savez_compressed(root / "pneumoniamnist.npz", **films, **labels)
    return root


def put_json_lines(root: Path) -> Path:
    put_image(root / "a.png")
    lines = [{"file_name": "a.png", "edema": 1, "age": 60.5}, {"file_name": "b.png", "edema": None}]
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def put_dicoms(root: Path) -> Path:
    put_dicom(
        root / "IM1",
        np.arange(64, dtype=np.uint16).reshape(8, 8),
        PatientAge="050Y",
        WindowCenter=30,
        WindowWidth=9,
    )
    return root


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tar": (put_shards, "shard-000000.tar"),
    "index": (put_shards, "shard-000000.index"),
    "manifest": (put_shards, "manifest.json"),
    "csv": (put_chexpert, "train.csv"),
    "gzip": (put_mimic, "mimic-cxr-2.0.0-metadata.csv.gz"),
    "padchest": (put_padchest, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"),
    "npz": (put_npz, "pneumoniamnist.npz"),
    "jsonl": (put_json_lines, "metadata.jsonl"),
    "png": (put_json_lines, "a.png"),
    "dicom": (put_dicoms, "IM1"),
}


@pytest.mark.parametrize("kind", FILES)
def test_only_our_errors_come_out(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    make, name = FILES[kind]
    root = make(tmp_path_factory.mktemp(kind) / "set")
    whole = (root / name).read_bytes()

    @given(DAMAGE)
    def fuzz(damage: tuple[list[tuple[float, int]], float]) -> None:
        (root / name).write_bytes(damaged(whole, damage))
        exercise(root)

    fuzz()


def test_damaged_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from synthaug.datasets import RealRadiographs

    put_image(tmp_path / "set" / "edema" / "a.png")
    root = export(RealRadiographs(tmp_path / "set"), tmp_path / "out", "parquet")
    path = root / "films-00000.parquet"
    whole = path.read_bytes()

    @given(DAMAGE)
    def fuzz(damage: tuple[list[tuple[float, int]], float]) -> None:
        path.write_bytes(damaged(whole, damage))
        exercise(root)

    fuzz()


def test_a_gzip_that_is_damaged_inside(tmp_path: Path) -> None:
    root = put_mimic(tmp_path)
    path = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
    text = gzip.decompress(path.read_bytes())

    @given(DAMAGE)
    def fuzz(damage: tuple[list[tuple[float, int]], float]) -> None:
        path.write_bytes(gzip.compress(damaged(text, damage)))
        exercise(root)

    fuzz()


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), st.integers(0, 2**34),
    st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=3),
)  # fmt: skip
def test_the_quick_header_reader_agrees_with_tarfile(
    name: str, size: int, changes: list[tuple[int, int]]
) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        header = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
    except ValueError:
        return
    for place, byte in changes:
        header[place] = byte
    found = _plain(bytes(header))
    if found is not None:
        theirs = tarfile.TarInfo.frombuf(bytes(header), "utf-8", "strict")
        assert found == (theirs.name, theirs.size) and theirs.isreg()


def test_a_table_of_a_gigabyte_of_one_line_is_refused(tmp_path: Path) -> None:
    """A field that never ends stops at the reader's own bound instead of filling the memory."""
    put_image(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(b'image,edema\n"' + b"a" * 3_000_000)
    with pytest.raises(SynthaugError, match="field larger than field limit"):
        read_folder(tmp_path, "csv")


def test_an_image_that_claims_too_much_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    put_table(tmp_path / "labels.csv", ("image", "edema"), ["a", 1])
    Image.new("L", (20_000, 10_000)).save(tmp_path / "a.png")
    with pytest.raises(SynthaugError, match="200000000 pixels"):
        read(tmp_path / "a.png")


def test_a_table_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthaug.datasets.formats import files

    monkeypatch.setattr(files, "MAX_LETTERS", 1_000_000)
    put_image(tmp_path / "a.png")
    bomb = gzip.compress(b"image,edema\n" + b"a.png,0000000000\n" * 100_000)
    (tmp_path / "labels.csv.gz").write_bytes(bomb)
    assert len(bomb) < 20_000
    with pytest.raises(SynthaugError, match=r"labels.csv.gz: more than 1000000 letters"):
        read_folder(tmp_path, "csv")
