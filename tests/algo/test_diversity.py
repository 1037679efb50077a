"""Diversity of a group, by hand."""

from __future__ import annotations

import pytest

from r1zero.algo.diversity import distinct_answers, distinct_n, ngrams, self_similarity


def test_ngrams() -> None:
    assert ngrams([1, 2, 3], 2) == [(1, 2), (2, 3)]
    assert ngrams([1, 2], 3) == [(1, 2)]


def test_distinct_n_by_hand() -> None:
    """12 23 | 12 24: three different of four."""
    assert distinct_n([[1, 2, 3], [1, 2, 4]], 2) == pytest.approx(3 / 4)
    assert distinct_n([[1, 1, 1, 1]], 1) == pytest.approx(1 / 4)


def test_self_similarity_by_hand() -> None:
    """{12, 23} and {12, 24} share one of three; a third text shares nothing with either."""
    assert self_similarity([[1, 2, 3], [1, 2, 4]], 2) == pytest.approx(1 / 3)
    assert self_similarity([[1, 2, 3], [1, 2, 4], [7, 8, 9]], 2) == pytest.approx(1 / 9)
    assert self_similarity([[1, 2, 3]] * 3, 2) == 1


def test_distinct_answers_leaves_out_responses_without_one() -> None:
    assert distinct_answers(["3", "3", None, "4"]) == 2
    assert distinct_answers([None, None]) == 0
