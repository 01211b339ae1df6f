"""A finding that no film is known to show: training and the study say so, and unknown is never taken for absent."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthaug import cli
from synthaug.datasets import RealRadiographs

NAMES = ("no_finding", "pleural_effusion", "edema")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty drawn films of thirty patients with and without an effusion; whether they show an edema nobody knows."""
    root = tmp_path_factory.mktemp("unknown")
    rng = np.random.default_rng(0)
    with open(root / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient", "split", *NAMES])
        for i in range(30):
            Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(root / f"film{i:02d}.png")
            split = "train" if i < 20 else "test"
            table.writerow([f"film{i:02d}.png", f"p{i}", split, "" if i % 2 else 1, 1 if i % 2 else "", ""])
    return root


def test_what_is_empty_is_unknown(folder: Path) -> None:
    films = RealRadiographs(folder)
    absent = films.column("no_finding") == 1
    assert np.isnan(films.column("edema")[~absent]).all() and (films.column("edema")[absent] == 0).all()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--data", "FOLDER", "--finding", "edema", "--arch", "test_resnet"], "none of edema"),
        (["benchmark", "--real", "FOLDER", "--finding", "edema"], "training films: 0 show edema"),
    ],
)
def test_a_command_that_needs_the_finding_says_that_nobody_knows_it(
    folder: Path, tmp_path: Path, command: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder) if word == "FOLDER" else word for word in command]
    code = cli.main([*given, "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert (code, said in capsys.readouterr().err) == (2, True)
