"""pass@k, G-Pass@k and 95 % intervals against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1zero.evaluate.intervals import average, estimates, g_pass_at_k, pass_at_k, resampled_means


@pytest.mark.parametrize(("n", "c"), [(n, c) for n in (1, 2, 3, 5, 8) for c in range(n + 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_response(n, c):
    right = [1] * c + [0] * (n - c)
    for k in range(1, n + 1):
        subsets = [any(chosen) for chosen in combinations(right, k)]
        assert pass_at_k(np.array([c]), n)[0, k - 1] == pytest.approx(np.mean(subsets), abs=1e-12)


def test_pass_at_k_by_hand():
    # n = 8 with 2 right: pass@4 = 1 - C(6,4)/C(8,4) = 1 - 15/70
    assert pass_at_k(np.array([2, 0, 8]), 8)[:, 3] == pytest.approx([55 / 70, 0, 1])


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1, max_size=9))))
def test_pass_at_k_starts_at_the_accuracy_and_only_rises(case):
    n, counts = case
    values = pass_at_k(np.array(counts), n)
    assert values[:, 0] == pytest.approx(np.array(counts) / n)
    assert values[:, -1] == pytest.approx((np.array(counts) > 0).astype(float))
    assert (np.diff(values, axis=1) >= -1e-12).all()


@pytest.mark.parametrize(("n", "c"), [(n, c) for n in (1, 3, 6) for c in range(n + 1)])
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_g_pass_at_k_is_the_share_of_subsets_with_enough_right_responses(n, c, share):
    right = [1] * c + [0] * (n - c)
    for k in range(1, n + 1):
        subsets = [sum(chosen) >= share * k for chosen in combinations(right, k)]
        assert g_pass_at_k(np.array([c]), n, share)[0, k - 1] == pytest.approx(np.mean(subsets), abs=1e-12)


def test_g_pass_at_k_lies_between_all_right_and_one_right():
    counts = np.arange(9)
    assert g_pass_at_k(counts, 8, 1e-6) == pytest.approx(pass_at_k(counts, 8))
    assert (g_pass_at_k(counts, 8, 0.5) <= pass_at_k(counts, 8) + 1e-12).all()
    assert (g_pass_at_k(counts, 8, 1.0) <= g_pass_at_k(counts, 8, 0.5) + 1e-12).all()


@pytest.mark.parametrize(("right", "count"), [(0, 30), (1, 30), (12, 30), (30, 30), (3, 5)])
def test_intervals_of_right_and_wrong_are_jeffreys(right, count):
    """Beta(right + 1/2, wrong + 1/2) at 2.5 and 97.5 %, drawn from numpy's own Beta; the mean is always inside."""
    values = np.array([[1.0]] * right + [[0.0]] * (count - right))
    beta = np.random.default_rng(3).beta(right + 0.5, count - right + 0.5, 400_000)
    low, high = np.quantile(beta, (0.025, 0.975))
    found = estimates(values, resampled_means(values, 100_000, seed=1))[0]
    assert (found.low, found.high) == pytest.approx((min(low, right / count), max(high, right / count)), abs=3e-3)


def test_a_better_score_has_no_lower_bound():
    """0, 1, 2, ... of 240 responses (30 questions of 8): both bounds only rise, without a jump (found B17)."""
    bounds = []
    for right in range(0, 241, 1):
        values = np.zeros((30, 1))
        for response in range(right):
            values[response % 30] += 1 / 8
        found = estimates(values, resampled_means(values, 2000, seed=0))[0]
        assert found.low <= found.value <= found.high
        bounds.append((found.low, found.high))
    steps = np.diff(np.array(bounds), axis=0)
    assert (steps >= -1e-12).all()
    assert steps.max() < 0.02


def test_changes_have_a_prior_on_both_sides():
    """No question changed: the interval is as wide below 0 as above."""
    values = np.zeros((40, 1))
    low, high = np.quantile(resampled_means(values, 50_000, seed=0, prior=0.1, lowest=-1.0), (0.025, 0.975))
    assert low == pytest.approx(-high, rel=0.2)
    assert high > 0.01


def test_intervals_cover_the_truth_in_about_95_of_100_sets():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        values = (rng.random((100, 1)) < 0.3).astype(float)
        found = estimates(values, resampled_means(values, 500, seed=trial))[0]
        covered += found.low <= 0.3 <= found.high
    assert 0.90 < covered / 400 < 0.98


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(1).random((20, 1))
    one, same, other = (resampled_means(values, 50, seed) for seed in (3, 3, 4))
    assert (one == same).all()
    assert (one != other).any()


def test_the_average_is_unweighted_and_resamples_each_set():
    small, large = np.array([[1.0], [0.0]]), np.zeros((100, 1))
    large[:10] = 1
    parts = [(v, resampled_means(v, 100_000, seed)) for seed, v in enumerate((small, large))]
    found = average(parts)[0]
    assert found.value == pytest.approx((0.5 + 0.1) / 2)
    rng = np.random.default_rng(9)
    brute = (rng.beta(1.5, 1.5, 100_000) + rng.beta(10.5, 90.5, 100_000)) / 2
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(brute, (0.025, 0.975))), abs=0.006)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_average_of_sets_without_variation_still_has_an_interval(share):
    values = [np.full((q, 1), share) for q in (30, 50)]
    found = average([(one, resampled_means(one, 4000, seed)) for seed, one in enumerate(values)])[0]
    assert found.value == share
    assert 0.01 < found.high - found.low < 0.2
