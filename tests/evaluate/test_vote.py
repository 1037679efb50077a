"""Majority vote by the verifier's equivalence."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest

from r1zero.config import RewardConfig
from r1zero.evaluate.vote import answer_groups, majority
from r1zero.reward.grader import Grader


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(RewardConfig(name="math_verify", workers=1)) as made:
        yield made


def test_equal_answers_in_other_words_are_one_group(grader):
    answers = [
        ["\\frac{1}{2}", "0.5", "3", None, "1/2", "3"],
        ["2\\sqrt{3}", "\\sqrt{12}", "x+1", "1+x", None, "7"],
        [None, None],
    ]
    assert answer_groups(grader, answers) == [[0, 0, 1, -1, 0, 1], [0, 0, 1, 1, -1, 2], [-1, -1]]


@pytest.mark.parametrize("extractor", ["boxed", "answer_tag"])
def test_both_places_of_an_answer_work(extractor):
    with Grader(RewardConfig(name="math_verify", workers=1), extractor=extractor) as own:
        assert answer_groups(own, [["0.5", "1/2", "4"]]) == [[0, 0, 1]]


def test_equal_texts_are_not_compared_again(grader, monkeypatch):
    asked = []
    submit = grader.submit
    monkeypatch.setattr(grader, "submit", lambda item: asked.append(item) or submit(item))
    assert answer_groups(grader, [["5"] * 40 + ["6"] * 40]) == [[0] * 40 + [1] * 40]
    assert len(asked) == 1


def same(answers, groups):
    """Which answers share a group."""
    return {frozenset(a for a, g in zip(answers, groups, strict=True) if g == group) for group in groups}


@pytest.mark.parametrize("answers", [["28%", "0.28", "28"], ["5", "5\\text{ m}", "5\\text{ cm}"], ["x=3", "3", "y=3"]])
def test_groups_do_not_depend_on_the_order(grader, answers):
    """28% agrees with 28 and with 0.28, which are two answers; every order gives the same groups (found B18)."""
    orders = [list(order) for order in permutations(answers)]
    found = [same(order, groups) for order, groups in zip(orders, answer_groups(grader, orders), strict=True)]
    assert all(one == found[0] for one in found)
    assert len(found[0]) == 2


def test_what_agrees_with_two_joins_the_one_of_more_votes(grader):
    rows = [["28", "28", "28%", "0.28"], ["0.28", "28%", "0.28", "28"]]
    assert answer_groups(grader, rows) == [[0, 0, 0, 1], [0, 0, 0, 1]]


def test_the_most_frequent_answer_wins():
    assert majority([0, 1, 1], [True, False, False]) == 0.0
    assert majority([0, 1, 1], [False, True, True]) == 1.0


def test_equally_frequent_answers_share_the_vote():
    """Nothing depends on which came first: the mean over a fair draw."""
    assert majority([1, 0, 0, 1], [True, False, False, True]) == 0.5
    assert majority([0, 1, 2, -1], [True, False, False, False]) == pytest.approx(1 / 3)


def test_responses_without_an_answer_do_not_vote():
    assert majority([-1, -1, -1, 0], [False, False, False, True]) == 1.0
    assert majority([-1, -1], [False, False]) == 0.0
