"""A cell begun twice at once, as where a worker was taken for dead: neither spoils the other's, and what was saved is used."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from benchmark_samples import FINDING, TINY

from synthaug.benchmark import trained
from synthaug.benchmark.arms import stages
from synthaug.benchmark.frozen import Score
from synthaug.benchmark.study import STRONG, Grid, open_study, run_study
from synthaug.benchmark.toy import toy_material
from synthaug.errors import OutputFolderError
from synthaug.shards import files

MATERIAL = toy_material(FINDING, 32)
RECIPE = TINY.train.model_copy(update={"findings": (FINDING,)})


def steps_of(folder: Path) -> Iterator[Any]:
    plan = stages("pretrained", 5, 0, MATERIAL.training, MATERIAL.synthetic)
    return trained.run_cell("pretrained", plan, MATERIAL, RECIPE, STRONG, folder, "cpu")


def score_of(folder: Path) -> Score:
    *_, score = steps_of(folder)
    return score


def equal(one: Score, other: Score) -> bool:
    return np.array_equal(one.judge, other.judge) and np.array_equal(one.validation, other.validation)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_cell_that_two_workers_write_at_once_is_whole_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stage: int
) -> None:
    """The first is held between the bytes of a file and its name, while the second goes through the whole cell."""
    alone = score_of(tmp_path / "alone")
    settle, here = files.settle, threading.current_thread()
    reached, go, met = threading.Event(), threading.Event(), []

    def held(file: BinaryIO) -> None:
        settle(file)
        if threading.current_thread() is not here and Path(file.name).name == f".{name}{files.TEMPORARY}":
            met.append(file.name)
            if len(met) == stage + 1:
                reached.set()
                go.wait(30)

    monkeypatch.setattr(files, "settle", held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(score_of, tmp_path / "both")
        assert reached.wait(30)
        second = score_of(tmp_path / "both")
        go.set()
        assert equal(first.result(30), alone) and equal(second, alone)
    assert content(tmp_path / "both") == content(tmp_path / "alone")


def test_a_cell_that_was_cut_off_goes_on_from_what_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = score_of(tmp_path / "alone")
    monkeypatch.setattr(trained, "train_detector", partial(trained.train_detector, save_every=1))
    begun = steps_of(tmp_path / "cell")
    assert next(begun).step == 1 and next(begun).step == 2 and next(begun).step == 1  # its second stage
    begun.close()
    records = list(steps_of(tmp_path / "cell"))
    assert [record.step for record in records[:-1]] == [2], "of two steps of the second stage one is left"
    assert equal(records[-1], alone) and content(tmp_path / "cell") == content(tmp_path / "alone")


def test_one_study_a_folder_and_what_a_killed_worker_left_is_swept(tmp_path: Path) -> None:
    recipe = TINY.model_copy(update={"frozen": None, "seeds": (0,), "full": Grid(arms=("real",), sizes=(5,))})
    left = tmp_path / "detectors" / ".writer-killed"
    first = run_study(open_study(recipe=recipe), tmp_path)
    next(first)
    with pytest.raises(OutputFolderError, match="another process is writing there"):
        next(run_study(open_study(recipe=recipe), tmp_path))
    first.close()
    left.mkdir(parents=True)
    list(run_study(open_study(recipe=recipe), tmp_path))
    cell = [f"full-real-5-0/{name}" for name in ("README.md", "config.json", "model.safetensors")]
    assert sorted(content(left.parent)) == cell
    assert not left.exists() and not (tmp_path / files.LOCK).exists()
