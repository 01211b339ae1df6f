"""The figures of a study: closed forms, scikit-learn, and coverage in simulation."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from synthaug.benchmark.statistics import (
    auroc_influence,
    balanced_accuracy_influence,
    crossed,
    figure,
    holm,
)


def scored(seed: int = 0, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 4 == 0).astype(int)
    return np.round(rng.normal(labels, 1), 1), labels  # rounded, so that there are ties


def test_auroc_and_balanced_accuracy_are_scikit_learns() -> None:
    scores, labels = scored()
    assert auroc_influence(scores, labels)[0] == pytest.approx(roc_auc_score(labels, scores))
    value, _ = balanced_accuracy_influence(scores, labels, 0.4)
    assert value == pytest.approx(balanced_accuracy_score(labels, scores >= 0.4))


def test_the_influence_is_the_derivative_by_a_films_weight() -> None:
    scores, labels = scored()
    _, influence = auroc_influence(scores, labels)
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    for film in (0, 1, 17):
        weights = np.ones(len(labels))
        weights[film] += 1e-6
        step = roc_auc_score(labels, scores, sample_weight=weights) - roc_auc_score(labels, scores)
        assert step / 1e-6 == pytest.approx(influence[film], rel=1e-3, abs=1e-7)


def test_one_draw_and_a_film_a_patient_give_delongs_variance() -> None:
    scores, labels = scored()
    found = figure(scores[None], labels, range(len(labels)))
    present, absent = scores[labels == 1], scores[labels == 0]
    wins = (present[:, None] > absent) + 0.5 * (present[:, None] == absent)
    delong = wins.mean(1).var(ddof=1) / len(present) + wins.mean(0).var(ddof=1) / len(absent)
    # The sums of squares differ by n/(n-1) in place of m/(m-1) for each side.
    assert found.error**2 == pytest.approx(delong, rel=0.06)
    assert found.low < found.value < found.high


def test_films_of_one_patient_count_once() -> None:
    scores, labels = scored()
    alone = figure(scores[None], labels, range(80)).error
    doubled = figure(np.tile(scores, (1, 2)), np.tile(labels, 2), [*range(80), *range(80)]).error
    assert doubled == pytest.approx(alone, rel=1e-9)


def test_equal_draws_leave_the_patients_and_independent_draws_leave_themselves() -> None:
    scores, labels = scored()
    value, influence = auroc_influence(scores, labels)
    same = crossed(np.array([value] * 4), np.stack([influence] * 4), range(80))
    alone = crossed(np.array([value]), influence[None], range(80))
    assert same.error == pytest.approx(alone.error)
    values = np.array([0.1, 0.3, 0.2, 0.6])
    free = crossed(values, np.zeros((4, 80)), range(80))
    assert free.error == pytest.approx(values.std(ddof=1) / 2) and free.freedom == pytest.approx(3)
    assert free.low == pytest.approx(0.3 - 3.182446 * free.error, abs=1e-5), "Student's t of 3 degrees"


def test_an_arm_never_differs_from_itself() -> None:
    scores, labels = scored()
    same = figure(np.stack([scores] * 3), labels, range(80), other=np.stack([scores] * 3))
    assert (same.value, same.low, same.high, same.p, same.detectable()) == (0, 0, 0, 1, 0)


def test_holm_is_the_step_down_of_the_definition() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_the_smallest_effect_grows_with_the_number_of_tests() -> None:
    scores, labels = scored()
    found = figure(scores[None], labels, range(80))
    assert found.detectable() == pytest.approx(2.84 * found.error, rel=0.01)
    assert found.detectable(20) > found.detectable()


@pytest.mark.parametrize("draws", [3, 5])
def test_paired_intervals_cover(draws: int) -> None:
    """Two arms whose AUROC differs by draw and by patient (two films each): nominal 95 % covers in 90 to 99 %.

    Score of film i in draw j: label, + a patient's difficulty shared by the arms, + a skill of (arm, draw), + noise.
    """
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(60), 2)
    labels = (patients % 3 == 0).astype(int)

    def study(draws: int, patients: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        people = patients.max() + 1
        ease = rng.normal(0, 0.7, people)[patients]
        arms = []
        for lift in (1.0, 1.3):
            ours = rng.normal(0, 0.5, people)[patients]
            skill = lift + rng.normal(0, 0.3, (draws, 1))
            arms.append(skill * labels + ease + ours + rng.normal(0, 0.8, (draws, len(labels))))
        return arms[0], arms[1]

    many = np.repeat(np.arange(3000), 2)
    many_labels = (many % 3 == 0).astype(int)
    one, other = study(40, many, many_labels)
    truth = figure(other, many_labels, many, other=one).value
    inside = 0
    for _ in range(300):
        one, other = study(draws, patients, labels)
        found = figure(other, labels, patients, other=one)
        inside += found.low <= truth <= found.high
    assert 0.90 <= inside / 300 <= 0.99


def test_intervals_of_one_arm_cover_its_auroc_and_its_balanced_accuracy() -> None:
    """Scores of one arm: a label's lift that differs by draw, a patient's own ease, noise; each draw has its own threshold."""
    rng = np.random.default_rng(2)
    patients, draws = np.repeat(np.arange(60), 2), 5
    labels = (patients % 3 == 0).astype(int)

    def study(draws: int, patients: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ease = rng.normal(0, 0.7, patients.max() + 1)[patients]
        lift = 1.2 + rng.normal(0, 0.3, (draws, 1))
        cuts = 0.5 + rng.normal(0, 0.15, draws)
        return lift * labels + ease + rng.normal(0, 0.8, (draws, len(labels))), cuts

    many = np.repeat(np.arange(3000), 2)
    many_labels = (many % 3 == 0).astype(int)
    scores, cuts = study(60, many, many_labels)
    truths = figure(scores, many_labels, many).value, figure(scores, many_labels, many, cuts).value
    inside = np.zeros(2)
    for _ in range(250):
        scores, cuts = study(draws, patients, labels)
        found = figure(scores, labels, patients), figure(scores, labels, patients, cuts)
        inside += [f.low <= truth <= f.high for f, truth in zip(found, truths, strict=True)]
    assert ((inside / 250 >= 0.90) & (inside / 250 <= 0.99)).all(), inside / 250
