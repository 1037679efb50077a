"""Majority vote by the verifier's equivalence."""

from __future__ import annotations

from collections.abc import Iterator

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


def test_the_most_frequent_answer_wins():
    assert majority([0, 1, 1], [True, False, False]) is False
    assert majority([0, 1, 1], [False, True, True]) is True


def test_of_equally_frequent_answers_the_first_wins():
    assert majority([1, 0, 0, 1], [True, False, False, True]) is False  # group 0 is numbered first
    assert majority([0, 1], [True, False]) is True


def test_responses_without_an_answer_do_not_vote():
    assert majority([-1, -1, -1, 0], [False, False, False, True]) is True
    assert majority([-1, -1], [False, False]) is False
