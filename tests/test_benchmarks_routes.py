"""`benchmarks/routes.py`: nobody is in two parts, and what a route gains is paired with the base."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import benchmark_scripts
import numpy as np
import pytest
from PIL import Image

from synthaug.datasets import RealRadiographs
from synthaug.evaluation.label_fidelity import Scored


@pytest.fixture
def routes() -> Iterator[ModuleType]:
    with benchmark_scripts.script("routes") as module:
        yield module


def test_every_person_is_in_one_part(
    routes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = Image.new("L", (8, 8))
    for folder, people in (("train", range(40)), ("val", range(30, 50)), ("test", range(50, 60))):
        for name, stem in (("NORMAL", "IM-{:04d}-000{}"), ("PNEUMONIA", "person{}_virus_{}")):
            (tmp_path / folder / name).mkdir(parents=True)
            for person in people:
                for number in range(1 + person % 3):
                    film.save(tmp_path / folder / name / f"{stem.format(person, number)}.jpeg")
    monkeypatch.setattr(routes, "GENERATOR", 12)
    monkeypatch.setattr(routes, "DETECTOR", 8)
    monkeypatch.setattr(routes, "VALIDATION", 10)
    parts = routes.parts(RealRadiographs(tmp_path))
    assert {name: len(part) for name, part in parts.items()} == {
        "generator": 24, "detector": 16, "validation": 20,
    }  # fmt: skip
    people = {name: {routes.person(key) for key in part.keys} for name, part in parts.items()}
    assert not people["generator"] & people["detector"] and not people["generator"] & people["validation"]
    assert not people["detector"] & people["validation"]
    folders = {name: {r.provenance["split"] for r in part.records} for name, part in parts.items()}
    assert folders == {"generator": {"train"}, "detector": {"train"}, "validation": {"validation"}}
    for part in parts.values():
        assert part.relabel(["pneumonia"]).labels[:, 0].mean() == 0.5


def test_a_gain_is_that_of_equal_noises(routes: ModuleType) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([1.0, 0.0], 40)
    noises = tuple(f"{seed}/{index}" for seed in (100, 101) for index in range(40))
    by_chance = Scored(rng.normal(size=80), labels, noises)
    none = routes.gain(by_chance, by_chance, "same")
    assert (none.value, none.low, none.high, none.n) == (0.0, 0.0, 0.0, 80)
    all_of_it = routes.gain(Scored(labels + rng.normal(0, 0.1, 80), labels, noises), by_chance, "perfect")
    assert all_of_it.value == pytest.approx(0.5, abs=0.15) and 0.25 < all_of_it.low < all_of_it.high < 0.75
