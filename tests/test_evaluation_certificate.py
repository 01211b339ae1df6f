"""Sample sizes, differences, subgroups and the certificate: SciPy, brute force, closed forms, simulation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection import predict
from synthaug.detection.detector import Detector, DetectorConfig
from synthaug.errors import UserError
from synthaug.evaluation.intervals import difference, proportion, wilson
from synthaug.evaluation.label_fidelity import Judge, certificate, judges
from synthaug.evaluation.sample_size import films_needed, least_right
from synthaug.evaluation.subgroups import GAP, age_band, attributes, groups_of, subgroup_metrics


class Mean(torch.nn.Module):
    """The logit of the finding is the film's mean grey value about a half."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean((1, 2, 3)) * self.scale
        return torch.stack([-bright, bright], 1)


@pytest.fixture
def judge() -> Judge:
    config = DetectorConfig(arch="mean", findings=("no_finding", "pleural_effusion"), image_size=64)
    (found,) = judges([Detector(config, Mean()).eval()])
    return found


@given(st.integers(1, 300), st.floats(0.5, 0.98))
def test_the_fewest_right_films_are_those_of_a_scan(n: int, bound: float) -> None:
    expected = next((k for k in range(n + 1) if wilson(k, n)[0] > bound), None)
    assert least_right(n, bound) == expected


def test_the_sample_size_has_the_power_and_half_of_it_has_not() -> None:
    for accuracy, bound in ((0.97, 0.95), (0.9, 0.8), (1.0, 0.95)):
        n = films_needed(accuracy, bound)
        assert n is not None

        def power(count: int, accuracy: float = accuracy, bound: float = bound) -> float:
            least = next((k for k in range(count + 1) if wilson(k, count)[0] > bound), count + 1)
            return float(binom.sf(least - 1, count, accuracy))

        assert power(n) >= 0.8 and power(n // 2) < 0.8
    assert films_needed(0.95, 0.95) is None and films_needed(0.5, 0.9) is None
    assert films_needed(0.95 + 1e-5, 0.95) is None, "more than a million films"
    with pytest.raises(UserError, match="bound 1"):
        films_needed(0.9, 1)


def test_newcombes_published_example() -> None:
    # Newcombe 1998, table II: 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    first, second = ((k / n, *wilson(k, n)) for k, n in ((56, 70), (48, 80)))
    np.testing.assert_allclose(difference(first, second), (0.0524, 0.3339), atol=1e-4)


def test_intervals_of_gaps_and_of_clustered_accuracy_hold_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    gaps = shares = 0
    for _ in range(500):
        sides = [(rng.random(n) < p).astype(float) for n, p in ((40, 0.3), (90, 0.15))]
        low, high = difference(*((s.mean(), *proportion(s, range(len(s)))) for s in sides))  # type: ignore[arg-type]
        gaps += low <= 0.15 <= high
        right = np.repeat(rng.random(60) < 0.8, 2)
        twins = (right ^ (rng.random(120) < 0.1)).astype(float)
        low, high = proportion(twins, np.repeat(np.arange(60), 2))
        shares += low <= 0.8 * 0.9 + 0.2 * 0.1 <= high
    assert 0.9 <= gaps / 500 <= 0.99 and 0.9 <= shares / 500 <= 0.99


def test_subgroups_and_their_crossings(tiny_nih: Path) -> None:
    data = RealRadiographs(tiny_nih)
    assert [age_band(a) for a in (0, 17.9, 18, 59, 60, None)] == [
        "0-17",
        "0-17",
        "18-39",
        "40-59",
        "60+",
        None,
    ]
    groups = groups_of(attributes(data))
    assert {"view=PA", "view=AP", "sex=F", "sex=M", "age=60+", "view=PA, sex=F", "sex=M, age=40-59"} <= set(
        groups
    )
    inside, known = groups["sex=F, age=60+"]
    for i in range(len(data)):
        assert inside[i] == (data.sexes[i] == "F" and (data.ages[i] or 0) >= 60) and known[i]
    some = {"sex": ["F", None, "M"], "view": ["PA", "PA", "PA"]}
    inside, known = groups_of(some)["sex=F"]  # type: ignore[arg-type]
    assert inside.tolist() == [True, False, False] and known.tolist() == [True, False, True]


class Many:
    """Films that are labels and attributes only."""

    def __init__(self, present: np.ndarray, sexes: list[str | None]) -> None:
        self.present, self.sexes = present, sexes
        self.views, self.ages = ["PA"] * len(present), [None] * len(present)
        self.patients, self.keys = [None] * len(present), [str(i) for i in range(len(present))]

    def column(self, finding: str) -> np.ndarray:
        return self.present if finding == "pleural_effusion" else 1 - self.present


def test_a_planted_gap_is_found(judge: Judge) -> None:
    rng = np.random.default_rng(1)
    present = np.arange(400) % 2 * 1.0
    sexes = ["F" if i % 4 < 2 else "M" for i in range(400)]
    seen = np.where(np.array(sexes) == "F", 0.5, 0.9)
    scores = np.where(present == 1, (rng.random(400) < seen) * 0.8, 0.1)
    metrics = {
        (m.name, m.subgroup): m
        for m in subgroup_metrics(judge, Many(present, sexes), scores, "pleural_effusion")
    }
    female = (np.array(sexes) == "F") & (present == 1)
    expected = (scores[female] < 0.5).mean() - (scores[~female & (present == 1)] < 0.5).mean()
    gap = metrics[GAP, "sex=F"]
    assert gap.value == pytest.approx(expected, abs=1e-6) and gap.low > 0.2 and gap.n == 200  # type: ignore[operator]
    assert metrics[GAP, "sex=M"].value == pytest.approx(-expected, abs=1e-6)
    assert metrics["label specificity", "sex=F"].value == 1.0
    assert "0 pleural_effusion films outside" in (metrics[GAP, "view=PA"].reason or "")
    few = subgroup_metrics(judge, Many(present[:30], sexes[:30]), scores[:30], "pleural_effusion")
    assert all(
        m.value is None and "10 of each are needed" in (m.reason or "")
        for m in few
        if m.subgroup != "view=PA"
    )


def test_the_certificate_says_what_it_can(judge: Judge, tiny_shards: Path, tiny_nih: Path) -> None:
    drawn, real = SyntheticRadiographs(tiny_shards), RealRadiographs(tiny_nih)
    metrics = certificate(judge, [drawn], "pleural_effusion", real, drawn)
    by_name = {(m.name, m.arm): m for m in metrics}
    accuracy, ceiling = by_name["label accuracy", "synthetic"], by_name["label accuracy", "real"]
    assert (
        accuracy.protocol == ceiling.protocol
        and accuracy.extractor == "mean"
        and accuracy.resize == "64 crop"
    )
    distance = by_name["label accuracy minus ceiling", "synthetic"]
    assert distance.value == pytest.approx(accuracy.value - ceiling.value, abs=1e-6)  # type: ignore[operator]
    assert distance.low < distance.value < distance.high  # type: ignore[operator]
    called = by_name["empty prompt called present", "empty prompt"]
    cut = judge.detector.config.threshold("pleural_effusion")
    assert called.value == pytest.approx((predict(judge.detector, drawn)[:, 1] >= cut).mean(), abs=1e-6)
    assert "no number of films" in (
        by_name["films needed to show accuracy above 0.95", "synthetic"].reason or ""
    )
    alone = {(m.name, m.arm): m for m in certificate(judge, [drawn], "pleural_effusion")}
    assert "no --real" in (alone["label accuracy", "real"].reason or "")
    assert "no --empty-prompt" in (alone["empty prompt called present", "empty prompt"].reason or "")


def test_judges_have_names_of_their_own_and_a_digest_of_their_weights(
    judge: Judge, tmp_path: Path, tiny_radiographs: Callable[..., tuple]
) -> None:
    first, second = judges([judge.detector, judge.detector])
    assert (first.name, second.name) == ("mean", "mean-2") and first.digest == second.digest
    other = Detector(judge.detector.config.model_copy(update={"temperature": 2.0}), Mean()).eval()
    assert judges([other])[0].digest != judge.digest
