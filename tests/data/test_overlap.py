"""Overlap of training set and benchmarks (trap 36)."""

from __future__ import annotations

import pytest

from r1zero.batch import Question
from r1zero.config import BadGold, DataConfig
from r1zero.data.overlap import overlap
from r1zero.data.prompts import load_questions

TEN = "one two three four five six seven eight nine ten"


def questions(*texts: str) -> list[Question]:
    return [Question(text, ("1",), "made", row) for row, text in enumerate(texts)]


def test_white_space_does_not_hide_an_equal_question():
    found = overlap(questions("a b", f"{TEN}\n eleven?"), questions(f"{TEN} eleven ?", "other"))
    assert (found.exact, found.near, found.questions) == (1, 1, 2)
    assert (found.matches[0].held, found.matches[0].train) == (0, 1)
    assert str(found) == "1 exact and 0 near of 2 questions"


def test_the_share_of_ten_grams_in_one_training_question():
    """13 words are 4 ten-grams; the training rows below hold 2, 3 and 1 of them: 3 / 4 is the best."""
    held = questions(f"{TEN} eleven twelve thirteen")
    train = questions(f"{TEN} eleven, but", f"ONE {TEN[4:]}, Eleven; twelve!", f"x {TEN}")
    (match,) = overlap(train, held).matches
    assert (match.train, match.share, match.exact) == (1, 0.75, False)
    assert overlap(train, held, share=0.8).matches == ()
    assert overlap(train[2:], held).near == 0  # 1 of 4
    # shares of two training rows are not added up
    assert overlap(questions(f"x {TEN}", f"two {TEN[8:]} eleven"), held, share=0.5).near == 0


def test_short_questions_match_by_all_their_words():
    assert overlap(questions("What is 2+2?"), questions("what is 2 + 2")).near == 1
    assert overlap(questions("What is 2+2 now?"), questions("what is 2 + 2")).near == 0
    assert overlap(questions("", "?"), questions("", "!")).exact == 1


@pytest.mark.parametrize(
    ("train", "held", "exact", "near"),
    [
        ("train/math_12k", "eval/math500", 0, 38),
        ("train/math_lvl3to5", "eval/math500", 0, 29),
        ("train/math_12k", "eval/olympiadbench", 0, 4),
        ("train/aime_975", "eval/math500", 4, 8),
        ("train/gsm8k_train", "eval/gsm8k_test", 0, 1),
        ("train/aime_975", "eval/aime24", 0, 0),
        ("eval/gsm8k_test", "eval/gsm8k_test", 1319, 1319),
    ],
)
def test_overlaps_of_the_real_sets(shared, train, held, exact, near):
    """The figures of an independent count of the same files."""

    def load(name):
        return load_questions(DataConfig(name=name, path=f"{shared}/data/{name}.jsonl", bad_gold=BadGold.drop))

    found = overlap(load(train), load(held))
    assert (found.exact, found.near) == (exact, near)
