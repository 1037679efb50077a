"""pass@k and 95 % intervals against brute force."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1zero.evaluate.intervals import average, estimates, pass_at_k, resampled_means


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


def test_intervals_match_the_distribution_over_all_resamples():
    """Four questions have 4^4 = 256 equally likely resamples; 200,000 draws must agree with all of them."""
    values = np.array([[0.0, 0.1], [0.25, 0.9], [0.5, 0.4], [1.0, 0.7]])
    everything = np.array([values[list(chosen)].mean(axis=0) for chosen in product(range(4), repeat=4)])
    draws = resampled_means(values, 200_000, seed=1)
    assert draws.mean(axis=0) == pytest.approx(everything.mean(axis=0), abs=2e-3)
    assert draws.std(axis=0) == pytest.approx(everything.std(axis=0), rel=1e-2)
    for column, found in enumerate(estimates(values, draws)):
        low, high = np.quantile(everything[:, column], (0.025, 0.975))
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
        assert found.value == pytest.approx(values[:, column].mean())


def test_intervals_match_a_loop_that_draws_questions():
    """An independent loop with another generator agrees within its own noise."""
    rng = np.random.default_rng(5)
    values = (rng.random((30, 1)) < 0.4).astype(float)
    loop = [np.mean([values[rng.integers(30), 0] for _ in range(30)]) for _ in range(4000)]
    found = estimates(values, resampled_means(values, 4000, seed=0))[0]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(loop, (0.025, 0.975))), abs=0.034)  # one question


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


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_set_without_variation_still_has_an_interval(share):
    """30 wrong answers don't prove an accuracy of 0: the bound has a 2.5 % chance of giving them."""
    values = np.full((30, 1), share)
    found = estimates(values, resampled_means(values, 100, seed=0))[0]
    width = found.high if share == 0 else 1 - found.low
    assert (1 - width) ** 30 == pytest.approx(0.025)
    assert (found.low if share == 0 else found.high) == share


def test_the_average_is_unweighted_and_resamples_each_set():
    small, large = np.array([[1.0], [0.0]]), np.zeros((100, 1))
    large[:10] = 1
    parts = [(v, resampled_means(v, 100_000, seed)) for seed, v in enumerate((small, large))]
    found = average(parts)[0]
    assert found.value == pytest.approx((0.5 + 0.1) / 2)
    rng = np.random.default_rng(9)
    brute = (rng.binomial(2, 0.5, 100_000) / 2 + rng.binomial(100, 0.1, 100_000) / 100) / 2
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(brute, (0.025, 0.975))), abs=0.006)


def test_the_average_of_sets_without_variation_still_has_an_interval():
    zeros = [(np.zeros((q, 1)), np.zeros((10, 1))) for q in (30, 50)]
    found = average(zeros)[0]
    own = [1 - 0.025 ** (1 / q) for q in (30, 50)]
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(sum(own) / 2)
    ones = [(np.ones((q, 1)), np.ones((10, 1))) for q in (30, 50)]
    assert average(ones)[0].low == pytest.approx(1 - sum(own) / 2)
