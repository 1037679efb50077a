"""Unbiased pass@k and G-Pass@k, and 95 % intervals by resampling questions."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, comb

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For results.json."""
        return {"value": self.value, "low": self.low, "high": self.high}


def pass_at_k(right: Array, n: int) -> Array:
    """Unbiased estimate of the chance that k responses hold a right one, for every k from 1 to n.

    1 - C(n - c, k) / C(n, k), the share of the k-subsets of the n responses that hold one of the c right ones.

    Args:
        right: [Q] number of right responses per question.
        n: Responses per question.

    Returns:
        [Q, n]; column k - 1 is pass@k.
    """
    wrong = n - np.asarray(right, dtype=np.float64)
    drawn = np.arange(n)
    # Product over i < k of (wrong - i) / (n - i): all of the k draws are wrong.
    factors = np.clip(wrong[:, None] - drawn, 0, None) / (n - drawn)
    return 1.0 - np.cumprod(factors, axis=1)


def g_pass_at_k(right: Array, n: int, share: float) -> Array:
    """Unbiased chance that at least ``share`` of k responses are right, for every k from 1 to n.

    G-Pass@k of Liu et al. (2024, arXiv:2412.13147), eq. 3: the sum over j >= ceil(share k) of the hypergeometric
    C(c, j) C(n - c, k - j) / C(n, k). With a share of 1 all k are right; as the share falls to 0 it becomes pass@k.

    Args:
        right: [Q] number of right responses per question.
        n: Responses per question.
        share: Above 0, at most 1.

    Returns:
        [Q, n]; column k - 1 is G-Pass@k.
    """
    table = np.array(
        [[_at_least(c, n, k, max(ceil(share * k - 1e-9), 1)) for k in range(1, n + 1)] for c in range(n + 1)]
    )
    return table[np.asarray(right, dtype=np.int64)]


def _at_least(c: int, n: int, k: int, wanted: int) -> float:
    """Chance that k of n responses, c of them right, hold at least ``wanted`` right ones."""
    return sum(comb(c, j) * comb(n - c, k - j) for j in range(wanted, min(c, k) + 1)) / comb(n, k)


def resampled_means(values: Array, resamples: int, seed: int, prior: float = 0.5, lowest: float = 0.0) -> Array:
    """Means over questions with random weights: a Bayesian bootstrap (Rubin 1981) of the questions.

    The weights are Dirichlet, 1 for each question and ``prior`` for a made-up one of the lowest value and one of 1.
    With
    values of 0 and 1 alone a mean is then Beta(right + prior, wrong + prior), Jeffreys' interval; with shares between
    them it moves smoothly, so that an interval never jumps where all or none are right.

    Args:
        values: [Q, M] figures of each question, from ``lowest`` to 1.
        resamples: B.
        seed: Equal seeds draw equal weights.
        prior: Weight of each made-up question; a tenth for changes, which lie far from both.
        lowest: 0 for shares, -1 for changes of shares.

    Returns:
        [B, M].
    """
    values = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    weights = generator.standard_exponential((resamples, len(values)))
    made_up = generator.gamma(prior, size=(resamples, 2))
    total = weights.sum(axis=1, keepdims=True) + made_up.sum(axis=1, keepdims=True)
    return (weights @ values + made_up @ np.array([[lowest], [1.0]])) / total


def estimates(values: Array, draws: Array) -> list[Estimate]:
    """Means of the columns with percentile intervals, which always hold the mean.

    Args:
        values: [Q, M] shares of each question.
        draws: [B, M] of :func:`resampled_means`.
    """
    return _with_bounds(values.mean(axis=0), draws)


def average(parts: list[tuple[Array, Array]]) -> list[Estimate]:
    """Unweighted mean over sets, each resampled by itself.

    Args:
        parts: values [Q_s, M] and draws [B, M] of each set s; B and M are common.
    """
    means = np.mean([values.mean(axis=0) for values, _ in parts], axis=0)
    return _with_bounds(means, np.mean([draws for _, draws in parts], axis=0))


def _with_bounds(means: Array, draws: Array) -> list[Estimate]:
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(draws, (tail, 1.0 - tail), axis=0)
    bounds = zip(means, np.minimum(low, means), np.maximum(high, means), strict=True)
    return [Estimate(float(value), float(below), float(above)) for value, below, above in bounds]
