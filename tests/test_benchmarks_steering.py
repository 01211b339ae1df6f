"""`benchmarks/steering.py`: sides in equal numbers, heads that see what real films show, and films that show it or do not."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import benchmark_scripts
import numpy as np
import pytest

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.errors import DataError
from synthaug.evaluation.results import Metric
from synthaug.generation import generate
from synthaug.generation.plan import GenerateRecipe
from synthaug.record import Record

RECORD = Record("0", {}, view="AP", sex="F", age=75.0)
FINDINGS, VIEWS = ("no_finding", "pleural_effusion"), ("PA", "AP")


@pytest.fixture(scope="module")
def steering() -> Iterator[ModuleType]:
    with benchmark_scripts.script("steering") as module:
        yield module


@pytest.mark.parametrize("count", [24, 3])
def test_the_sides_of_a_contrast_differ_in_nothing_else(steering: ModuleType, count: int) -> None:
    recipe = GenerateRecipe(plan=steering.plan(FINDINGS, VIEWS, count))
    films = list(recipe.entries(range(recipe.count)))
    assert recipe.count >= 2 * count and recipe.count - 2 * count < 16
    for name in ("view", "sex", "age"):
        others = [key for key in ("view", "sex", "age") if key != name]
        sides: dict[object, Counter] = {}
        for film in films:
            rest = (*(getattr(film, other) for other in others), *film.labels)
            sides.setdefault(getattr(film, name), Counter())[rest] += 1
        one, other = sides.values()
        assert one == other and sum(one.values()) >= count


def test_who_is_on_neither_side_is_left_out(steering: ModuleType) -> None:
    view, sex, age = (contrast.side for contrast in steering.CONTRASTS)
    record = RECORD
    assert [view(record), sex(record), age(record)] == [1.0, 0.0, 1.0]
    for years, side in ((39.0, 0.0), (60.0, 1.0)):
        assert age(replace(record, age=years)) == side
    unknown = replace(record, view="lateral", sex=None, age=50.0)
    assert np.isnan([view(unknown), sex(unknown), age(unknown), age(replace(record, age=None))]).all()


class Shown:
    """Features that show the view of a film in one of five numbers, or nothing of it; records and patients beside."""

    def __init__(self, n: int, seed: int, shown: bool) -> None:
        rng = np.random.default_rng(seed)
        self.records = [replace(RECORD, key=str(i), view=VIEWS[i % 2]) for i in range(n)]
        self.keys, self.patients = [r.key for r in self.records], [None] * n
        self.features = rng.normal(size=(n, 5))
        self.features[:, 2] += 3 * shown * (np.arange(n) % 2)


def by_name(found: list[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in found}


def test_films_that_show_their_view_are_told_apart_and_others_are_not(steering: ModuleType) -> None:
    real, contrast = Shown(400, 0, True), steering.CONTRASTS[0]
    head = steering.fit(real.features, np.arange(400) % 2 * 1.0, steering.owners(real))
    assert abs(head.logits(real.features).mean()) < 0.3, "equal odds lie at 0"
    for shown in (True, False):
        films = Shown(300, 1, shown)
        found = by_name(steering.measure(contrast, head, films.features, films, "synthetic", films.keys))
        area, right = found["view AUROC"], found["view accuracy"]
        assert area.subgroup == "view PA / AP, n = 150 / 150" and {"right of AP", "right of PA"} < set(found)
        if shown:
            assert (area.low or 0) > 0.95 and (right.low or 0) > 0.85
        else:
            assert (area.low or 0) < 0.5 < (area.high or 0)
    with pytest.raises(DataError, match="19 and 20 real films"):
        steering.fit(real.features[:39], np.arange(39) >= 19, steering.owners(real)[:39])


def test_the_whole_runs_on_a_tiny_checkpoint(
    steering: ModuleType,
    tiny_checkpoint: Path,
    tiny_nih: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steering, "LEAST", 2)
    recipe = GenerateRecipe(plan=steering.plan(FINDINGS, VIEWS, 8), seed=900)
    films = SyntheticRadiographs(
        generate(recipe=recipe, out=tmp_path / "films", model=tiny_checkpoint, device="cpu")
    )
    found = steering.steering(
        RealRadiographs(tiny_nih, min_age=18), films, steering.network("random:resnet10t", "cpu")
    )
    drawn = [m for m in found if m.arm == "synthetic" and m.name.endswith("AUROC")]
    assert "view AUROC" in {m.name for m in drawn} and all(m.n == 16 and m.low is not None for m in drawn)
