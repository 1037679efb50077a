"""Unbiased pass@k, and 95 % intervals by resampling questions."""

from __future__ import annotations

from dataclasses import dataclass

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


def resampled_means(values: Array, resamples: int, seed: int) -> Array:
    """Means over questions that are drawn with replacement, Q at a time.

    Args:
        values: [Q, M] figures of each question.
        resamples: B.
        seed: Equal seeds draw equal questions.

    Returns:
        [B, M].
    """
    count = len(values)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return draws @ values / count


def estimates(values: Array, draws: Array) -> list[Estimate]:
    """Means of the columns with percentile intervals.

    Where a share is 0 on every question, or 1, resampling gives an interval of no width, which says too much;
    the bound is then the exact binomial one: the share at which such a set has a chance of 2.5 %.

    Args:
        values: [Q, M] shares of each question.
        draws: [B, M] of :func:`resampled_means`.
    """
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(draws, (tail, 1.0 - tail), axis=0)
    bound = 1.0 - tail ** (1.0 / len(values))
    high = np.where((values == 0).all(axis=0), bound, high)
    low = np.where((values == 1).all(axis=0), 1.0 - bound, low)
    return [Estimate(float(v), float(a), float(b)) for v, a, b in zip(values.mean(axis=0), low, high, strict=True)]


def average(parts: list[tuple[Array, Array]]) -> list[Estimate]:
    """Unweighted mean over sets, each resampled by itself.

    Where a share is 0 on every question of every set, or 1, the bound is the mean of the sets' own bounds,
    which is wider than need be and not of no width (see :func:`estimates`).

    Args:
        parts: values [Q_s, M] and draws [B, M] of each set s; B and M are common.
    """
    means = np.mean([values.mean(axis=0) for values, _ in parts], axis=0)
    draws = np.mean([d for _, d in parts], axis=0)
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(draws, (tail, 1.0 - tail), axis=0)
    bound = float(np.mean([1.0 - tail ** (1.0 / len(values)) for values, _ in parts]))
    high = np.where(np.all([(values == 0).all(axis=0) for values, _ in parts], axis=0), bound, high)
    low = np.where(np.all([(values == 1).all(axis=0) for values, _ in parts], axis=0), 1.0 - bound, low)
    return [Estimate(float(v), float(a), float(b)) for v, a, b in zip(means, low, high, strict=True)]
