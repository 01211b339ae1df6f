"""Intervals against SciPy, scikit-learn and closed forms."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from sklearn.metrics import roc_auc_score

from synthaug.evaluation.intervals import (
    accuracy,
    auroc,
    auroc_interval,
    crossed_bootstrap,
    difference,
    effective_number,
    estimate,
    median_interval,
    proportion,
    resample_groups,
    wilson,
)


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(n: int, share: float, confidence: float) -> None:
    hits = round(share * n)
    expected = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson(hits, n, confidence), (expected.low, expected.high), atol=1e-9)


def test_twins_count_once_and_independent_films_in_full() -> None:
    outcomes = np.random.default_rng(0).integers(0, 2, 50)
    assert effective_number(outcomes, range(50)) == pytest.approx(50)
    twins = np.repeat(outcomes, 2)
    assert effective_number(twins, np.repeat(np.arange(50), 2)) == pytest.approx(49)
    assert effective_number(np.ones(100), np.repeat(np.arange(50), 2)) == pytest.approx(50)
    np.testing.assert_allclose(proportion(outcomes, range(50)), wilson(outcomes.sum(), 50))


def test_weights_shrink_the_number_as_kish_says() -> None:
    weights = np.array([3.0, 1, 1, 1])
    assert effective_number(np.array([1, 0, 1, 0]), range(4), weights) == pytest.approx(36 / 12)


@given(st.integers(0, 10_000), st.integers(2, 60))
def test_auroc_is_scikit_learns_with_ties_and_weights(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = np.round(rng.random(n), 1), np.arange(n) % 2
    weights = rng.integers(1, 4, (3, n)).astype(float)
    expected = [roc_auc_score(labels, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(auroc(scores, labels, weights), expected)
    np.testing.assert_allclose(auroc(scores, labels), roc_auc_score(labels, scores))


def test_films_of_a_patient_are_drawn_together() -> None:
    weights = resample_groups(["a", "a", "b", "c"], 50, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 1:].sum(1) == 3).all()


def test_bootstrap_error_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 600), rng.random((1, 600))
    values, draws = crossed_bootstrap({"a": scores}, labels, range(600), "accuracy", {"a": [0.5]}, 3000)
    p = values["a"]
    assert p == pytest.approx(((scores[0] >= 0.5) == labels).mean())
    found = estimate(p, draws["a"])
    assert found.error == pytest.approx(np.sqrt(p * (1 - p) / 600), rel=0.08)
    assert found.detectable == pytest.approx(2.8016 * found.error, rel=1e-3)


def test_arms_are_compared_on_the_same_patients_and_seeds() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(80) % 2
    scores = rng.random((3, 80)) + 0.4 * labels
    _, draws = crossed_bootstrap({"a": scores, "b": scores * 2}, labels, range(80), replicates=200)
    np.testing.assert_allclose(draws["a"], draws["b"])
    _, single = crossed_bootstrap({"a": scores[:1]}, labels, range(80), replicates=2000)
    _, crossed = crossed_bootstrap(
        {"a": np.stack([scores[0], 1 - scores[0]])}, labels, range(80), replicates=2000
    )
    assert crossed["a"].std() > 2 * single["a"].std(), "seeds that disagree must widen the interval"


def test_grouping_widens_the_auroc_interval() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(40) % 2, 5)
    scores = np.repeat(rng.random(40), 5) + 0.3 * labels
    apart = auroc_interval(scores, labels, range(200))
    together = auroc_interval(scores, labels, np.repeat(np.arange(40), 5))
    assert apart.value == together.value and together.error > 1.5 * apart.error


def test_balanced_accuracy_gives_each_kind_half() -> None:
    scores, labels = np.array([0.9, 0.1, 0.2, 0.8]), np.array([1, 0, 0, 0])
    ones = np.ones((1, 4))
    assert accuracy(scores, labels, 0.5, ones)[0] == pytest.approx(0.75)
    assert accuracy(scores, labels, 0.5, ones, balance=True)[0] == pytest.approx((1 + 2 / 3) / 2)


def test_too_few_replicates_give_no_interval() -> None:
    found = estimate(0.5, np.full(10, np.nan))
    assert np.isnan(found.low) and np.isnan(found.error)


def test_the_auroc_interval_holds_what_it_promises() -> None:
    rng = np.random.default_rng(3)
    hit = 0
    for _ in range(200):
        labels = np.repeat(np.arange(80) % 2, 2)
        shared = np.repeat(rng.normal(size=80), 2)  # two films of a patient are alike
        scores = labels + shared + 0.5 * rng.normal(size=160)
        found = auroc_interval(scores, labels, np.repeat(np.arange(80), 2), replicates=400)
        hit += found.low <= NormalDist().cdf(1 / np.sqrt(2 * 1.25)) <= found.high
    assert 180 <= hit <= 199


def test_intervals_of_unequal_halves_and_of_their_distance_hold_what_they_promise() -> None:
    """Present and absent films half the weight each, in unequal number and in twins, as on real films."""
    rng = np.random.default_rng(4)
    single = apart = 0
    for _ in range(400):
        sides = []
        for ones, zeros in ((20, 70), (50, 50)):
            right = np.concatenate([rng.random(ones) < 0.6, rng.random(zeros) < 0.9])
            twins = np.repeat(right, 2) ^ (rng.random(2 * len(right)) < 0.05)
            weights = np.repeat([0.5 / (2 * ones), 0.5 / (2 * zeros)], [2 * ones, 2 * zeros])
            groups = np.repeat(np.arange(len(right)), 2)
            sides.append(
                (np.average(twins, weights=weights), *proportion(twins.astype(float), groups, weights))
            )
        truth = 0.75 * 0.95 + 0.25 * 0.05
        single += sides[0][1] <= truth <= sides[0][2]
        low, high = difference(sides[0], sides[1])
        apart += low <= 0 <= high
    assert 0.9 <= single / 400 <= 0.99 and 0.9 <= apart / 400 <= 0.99


def test_the_paired_difference_of_two_detectors_holds_what_it_promises() -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(80) % 2, 2)
    patients = np.repeat(np.arange(80), 2)
    truth = NormalDist().cdf(1.2 / np.sqrt(2 * 1.5)) - NormalDist().cdf(0.8 / np.sqrt(2 * 1.5))
    hit = 0
    for _ in range(200):
        shared = np.repeat(rng.normal(size=80), 2)
        arms = {
            name: (lift * labels + shared + np.sqrt(0.5) * rng.normal(size=160))[None]
            for name, lift in (("a", 0.8), ("b", 1.2))
        }
        values, draws = crossed_bootstrap(arms, labels, patients, replicates=300)
        found = estimate(values["b"] - values["a"], draws["b"] - draws["a"])
        hit += found.low <= truth <= found.high
    assert 180 <= hit <= 198


def test_the_interval_of_a_median_is_that_of_its_order_statistics() -> None:
    n, values = 61, np.random.default_rng(3).normal(size=61)
    # A resampled median is at most the k-th value where 31 draws or more are among the first k.
    at_most = binom.sf(30, n, np.arange(1, n + 1) / n)
    low, high = (np.sort(values)[np.searchsorted(at_most, q)] for q in (0.025, 0.975))
    found = median_interval(values, range(n))
    assert found.value == np.median(values) and (found.low, found.high) == pytest.approx(
        (low, high), abs=0.05
    )
    thrice = median_interval(np.repeat(values, 3), np.repeat(np.arange(n), 3).tolist())
    assert (thrice.low, thrice.value, thrice.high) == (found.low, found.value, found.high)
