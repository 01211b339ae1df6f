"""Fixtures that every room shares: the real films (skipped by name where absent) and tiny drawn ones."""

import csv
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from synthaug import shards
from synthaug.images import encode
from synthaug.record import Record

settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


@pytest.fixture(scope="session")
def films() -> Path:
    """The folder of real radiographs: $SYNTHAUG_FILMS, else ../shared/radiographs beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "radiographs"
    folder = Path(os.environ.get("SYNTHAUG_FILMS") or beside)
    if not folder.is_dir():
        pytest.skip(f"real films: no folder {folder} (set SYNTHAUG_FILMS)")
    return folder


def draw_radiograph(
    rng: np.random.Generator, size: int = 64, effusion: bool = False, cardiomegaly: bool = False
) -> np.ndarray:
    """A film-like drawing, (size, size) uint8: body, spine, two dark lungs with ribs, heart, grain.

    An effusion whitens the lower part of one lung; cardiomegaly widens the heart.
    """
    y, x = np.mgrid[0:size, 0:size] / (size - 1) - 0.5
    x, y = x + rng.normal(0, 0.01), y + rng.normal(0, 0.01)

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return 1 / (1 + np.exp(12 * (np.hypot((x - cx) / rx, (y - cy) / ry) - 1)))

    lungs = ellipse(-0.2, -0.03, 0.15, 0.33), ellipse(0.2, -0.03, 0.14, 0.32)
    film = 40 + 120 * ellipse(0, 0.05, 0.5, 0.62) + 40 * np.exp(-((x / 0.04) ** 2))
    film -= 95 * (lungs[0] + lungs[1])
    film += 14 * (lungs[0] + lungs[1]) * np.sin(38 * (y + 0.5 * x**2))
    film += 90 * ellipse(0.07, 0.12, 0.2 if cardiomegaly else 0.13, 0.15)
    if effusion:
        side = int(rng.integers(2))
        film += 85 * lungs[side] / (1 + np.exp(-40 * (y - rng.uniform(0.0, 0.1))))
    film += rng.normal(0, 4, film.shape)
    return np.clip(film, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_radiographs() -> Callable[..., tuple[np.ndarray, list[dict[str, float]]]]:
    """`tiny_radiographs(count, size=64, seed=0)` -> drawn films (B, 1, H, W) uint8 and their labels.

    Odd ones have a pleural effusion, even ones no finding.
    """

    def draw(count: int, size: int = 64, seed: int = 0) -> tuple[np.ndarray, list[dict[str, float]]]:
        rng = np.random.default_rng(seed)
        images = np.stack([draw_radiograph(rng, size, effusion=i % 2 == 1) for i in range(count)])
        labels = [{"no_finding": float(i % 2 == 0), "pleural_effusion": float(i % 2)} for i in range(count)]
        return images[:, None], labels

    return draw


@pytest.fixture(scope="session")
def tiny_nih(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NIH ChestX-ray14 folder: 24 drawn films (96 px PNG) of 12 patients, two a patient, PA and AP.

    Patients 1-5 have no finding, 6-10 an effusion (10 with atelectasis too), 11 cardiomegaly and 12,
    who is ten years old, no finding. Do not write into it: it is shared by the whole session.
    """
    root = tmp_path_factory.mktemp("tiny-nih")
    (root / "images").mkdir()
    rng = np.random.default_rng(7)
    with open(root / "Data_Entry_2017_v2020.csv", "w", newline="") as file:
        table = csv.writer(file)
        file.write(NIH_HEADER + "\n")
        for i in range(24):
            patient, follow_up = i // 2 + 1, i % 2
            effusion, cardiomegaly = 6 <= patient <= 10, patient == 11
            found = (
                ["Effusion"] * effusion + ["Atelectasis"] * (patient == 10) + ["Cardiomegaly"] * cardiomegaly
            )
            # Beyond the numbers of NIH, so that no packaged split names it.
            name = f"9{patient:07d}_{follow_up:03d}.png"
            age = 10 if patient == 12 else 25 + 5 * patient
            sex, view = "FM"[patient % 2], ("PA", "AP")[follow_up]
            table.writerow(
                [name, "|".join(found) or "No Finding", follow_up, patient, age, sex, view, 96, 96, 0.1, 0.1]
            )
            Image.fromarray(draw_radiograph(rng, 96, effusion, cardiomegaly)).save(root / "images" / name)
    return root


@pytest.fixture(scope="session")
def tiny_class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders `effusion/` and `normal/`: 12 drawn films each, 64 px JPEG. Do not write into it."""
    root = tmp_path_factory.mktemp("tiny-classes")
    rng = np.random.default_rng(8)
    for name in ("effusion", "normal"):
        (root / name).mkdir()
        for i in range(12):
            film = draw_radiograph(rng, 64, effusion=name == "effusion")
            Image.fromarray(film).save(root / name / f"film-{i:03d}.jpg", quality=95)
    return root


@pytest.fixture
def tiny_shards(tmp_path: Path, tiny_radiographs: Callable[..., tuple[np.ndarray, list]]) -> Path:
    """A finished folder of 24 synthetic records in three shards of eight; the test's own, to be broken."""
    folder = tmp_path / "tiny-shards"
    folder.mkdir()
    images, labels = tiny_radiographs(24)

    def sample(i: int) -> tuple[Record, bytes, str]:
        record = Record(
            key=f"{i:09d}",
            labels=labels[i],
            view=("PA", "AP")[i % 2],
            prompt="chest radiograph: pleural effusion" if i % 2 else "chest radiograph: no finding",
            synthetic=True,
            provenance={"seed": 0, "checkpoint": {"name": "drawn", "sha256": "0" * 64}},
        )
        return record, encode(images[i, 0]), "png"

    entries = [shards.write_shard(folder, n, (sample(i) for i in range(8 * n, 8 * n + 8))) for n in range(3)]
    shards.write_manifest(folder, entries, recipe_digest="0" * 64)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of 100,000 random weights (tests/tiny_checkpoint.py). Do not write into it."""
    from tiny_checkpoint import build

    return build(tmp_path_factory.mktemp("tiny-checkpoint") / "tiny")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an empty bucket on an S3 server of this machine (moto), which fsspec finds by the environment."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        import fsspec

        fsspec.filesystem("s3").mkdir("films")
        yield "s3://films"
    server.stop()
