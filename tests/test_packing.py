"""Packing: what goes in comes out, whatever is interrupted, full or in use."""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from layout_samples import put_padchest
from PIL import Image

from synthaug import shards
from synthaug.datasets import RealRadiographs, SyntheticRadiographs, open_radiographs
from synthaug.datasets.packing import PLAN, Packing, pack
from synthaug.errors import DataError, DiskFullError, ImageError, OutputFolderError


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_what_is_packed_opens_as_it_was(tmp_path: Path, tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih)
    done: list[tuple[int, int]] = []
    manifest = pack(films.films, tmp_path / "out", Packing(shard_size=10), progress=lambda *n: done.append(n))
    assert manifest.count == 24 and done == [(10, 24), (20, 24), (24, 24)]
    assert manifest.facts["synthetic"] is False and manifest.facts["left_out"] == 0
    assert shards.verify(tmp_path / "out") == []
    packed = open_radiographs(tmp_path / "out")
    assert isinstance(packed, RealRadiographs) and packed.findings == films.findings
    assert [r.provenance["source_key"] for r in packed.records] == films.keys
    assert packed.keys[:2] == ["000000000", "000000001"]
    assert (packed.patients, packed.ages, packed.views) == (films.patients, films.ages, films.views)
    np.testing.assert_array_equal(packed.labels, films.labels)
    for i in range(24):
        np.testing.assert_array_equal(packed.image(i), films.image(i))
        assert packed.films[i].source() == films.films[i].path.read_bytes()  # kept as it is


def test_sixteen_bit_and_colour_become_png_and_sizes_are_made(tmp_path: Path) -> None:
    films = RealRadiographs(put_padchest(tmp_path / "set"), views="all")
    pack(films.films, tmp_path / "keep")
    kept = RealRadiographs(tmp_path / "keep", views="all")
    np.testing.assert_array_equal(kept.image(0), films.image(0))
    assert Image.open(shards_bytes(kept)).mode == "L"
    pack(films.films, tmp_path / "small", Packing(image_size=8, format="webp"))
    small = RealRadiographs(tmp_path / "small", views="all")
    assert small.image(0).shape == (8, 8) and Image.open(shards_bytes(small)).format == "WEBP"


def shards_bytes(films: RealRadiographs):  # type: ignore[no-untyped-def]
    import io

    return io.BytesIO(films.films[0].source())


def test_the_number_of_processes_changes_no_byte(tmp_path: Path, tiny_class_folders: Path) -> None:
    films = RealRadiographs(tiny_class_folders).films
    for processes in (1, 2):
        pack(films, tmp_path / str(processes), Packing(shard_size=7), processes)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_the_same_call_resumes_and_another_is_refused(tmp_path: Path, tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih).films
    out = tmp_path / "out"
    pack(films, out, Packing(shard_size=10))
    before = contents(out)
    (out / "manifest.json").unlink()
    (out / "shard-000001.tar").write_bytes(b"half")
    (out / "shard-000002.tar").unlink()
    kept = (out / "shard-000000.tar").stat().st_mtime_ns
    pack(films, out, Packing(shard_size=10))
    assert contents(out) == before and (out / "shard-000000.tar").stat().st_mtime_ns == kept
    with pytest.raises(OutputFolderError, match=r"holds something else: shard_size differ from .*pack.json"):
        pack(films, out, Packing(shard_size=9))
    with pytest.raises(OutputFolderError, match="digest, films differ"):
        pack(films[:20], out, Packing(shard_size=10))
    (out / PLAN).write_text("[")
    with pytest.raises(OutputFolderError, match=r"pack.json: damaged"):
        pack(films, out, Packing(shard_size=10))
    (out / PLAN).unlink()
    with pytest.raises(OutputFolderError, match="expected an empty folder"):
        pack(films, out, Packing(shard_size=10))


def test_a_bad_film_is_named_or_left_out(tmp_path: Path, tiny_class_folders: Path) -> None:
    import shutil

    root = shutil.copytree(tiny_class_folders, tmp_path / "set")
    (root / "effusion" / "film-003.jpg").write_bytes(b"not an image")
    films = RealRadiographs(root).films
    with pytest.raises(ImageError, match=r"film-003.jpg: not an image.*--skip-bad"):
        pack(films, tmp_path / "out", Packing(shard_size=5))
    assert not (tmp_path / "out" / "manifest.json").exists()
    manifest = pack(films, tmp_path / "rest", Packing(shard_size=5, skip_bad=True))
    assert manifest.count == 23 and manifest.facts["left_out"] == 1 and shards.verify(tmp_path / "rest") == []
    with pytest.raises(DataError, match="no film to pack"):
        pack([], tmp_path / "none")
    with pytest.raises(DataError, match="--shard-size: found 0"):
        pack(films, tmp_path / "none", Packing(shard_size=0))


def test_real_and_synthetic_films_are_packed_apart(tmp_path: Path, tiny_nih: Path, tiny_shards: Path) -> None:
    mixed = RealRadiographs(tiny_nih) + SyntheticRadiographs(tiny_shards)
    with pytest.raises(DataError, match="found real and synthetic films"):
        pack(mixed.films, tmp_path / "out", Packing(shard_size=100))


def test_a_second_writer_is_refused(tmp_path: Path, tiny_nih: Path) -> None:
    with shards.lock(tmp_path / "out"), pytest.raises(OutputFolderError, match="another process is writing"):
        pack(RealRadiographs(tiny_nih).films, tmp_path / "out")


@contextmanager
def full_disk(size: int):  # type: ignore[no-untyped-def]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_at_any_write_leaves_whole_files(tmp_path: Path, tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih).films
    pack(films, tmp_path / "whole", Packing(shard_size=8))
    expected = contents(tmp_path / "whole")
    sizes = sorted({path.stat().st_size for path in (tmp_path / "whole").iterdir()})
    out = tmp_path / "out"
    for size in [size - 1 for size in sizes]:
        with full_disk(size), pytest.raises(DiskFullError, match="no room left"):
            pack(films, out, Packing(shard_size=8))
        found = contents(out)
        assert found.items() <= expected.items()
    pack(films, out, Packing(shard_size=8))
    assert contents(out) == expected


RUN = """
import sys
from synthaug.datasets.formats import read_folder
from synthaug.datasets.packing import Packing, pack
films = read_folder(sys.argv[1]).films
print("ready", flush=True)
pack(films, sys.argv[2], Packing(shard_size=3, image_size=64), processes=int(sys.argv[3]))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, tiny_nih: Path, processes: int) -> None:
    films = RealRadiographs(tiny_nih).films
    pack(films, tmp_path / "whole", Packing(shard_size=3, image_size=64))
    expected = contents(tmp_path / "whole")
    chance = random.Random(processes)
    out = tmp_path / "out"
    command = [sys.executable, "-c", RUN, str(tiny_nih), str(out), str(processes)]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
            assert run.stdout is not None and run.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.0, 0.15 if processes == 1 else 1.2))
            run.kill()
        (out / ".synthaug.lock").unlink(missing_ok=True)
        found = (
            {name: sha for name, sha in contents(out).items() if not name.startswith(".")}
            if out.exists()
            else {}
        )
        assert found.items() <= expected.items()
    pack(films, out, Packing(shard_size=3, image_size=64))
    assert contents(out) == expected


def test_a_read_only_folder_is_named(tmp_path: Path, tiny_nih: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *rest: object, **more: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)  # root may write anywhere, so modes would show nothing
    with pytest.raises(OutputFolderError, match=r"out: cannot be written \(Permission denied\)"):
        pack(RealRadiographs(tiny_nih).films, tmp_path / "out")


def test_the_plan_says_what_was_asked(tmp_path: Path, tiny_nih: Path) -> None:
    pack(RealRadiographs(tiny_nih).films, tmp_path / "out", Packing(shard_size=50))
    plan = json.loads((tmp_path / "out" / PLAN).read_text())
    assert (plan["films"], plan["shard_size"], plan["format"]) == (24, 50, "keep") and len(
        plan["digest"]
    ) == 64
    assert str(tiny_nih) not in (tmp_path / "out" / PLAN).read_text()
