"""Figures of a hand-made table of responses."""

from __future__ import annotations

import pandas as pd
import pytest

from r1zero.errors import UserError
from r1zero.evaluate.metrics import average_of, per_question, summarize, whole_questions


def table(*questions: tuple[str, list[tuple[bool, int, int, str]]]) -> pd.DataFrame:
    """(level, [(right, group, tokens, status)]) per question."""
    rows = []
    for number, (level, responses) in enumerate(questions):
        for sample, (right, group, tokens, status) in enumerate(responses):
            rows.append(
                dict(question=number, sample=sample, right=right, group=group, tokens=tokens, status=status)
                | dict(level=level, subject="", finish_reason="length" if status == "truncated" else "stop")
            )
    return pd.DataFrame(rows)


TABLE = table(
    ("1", [(True, 0, 10, "right"), (True, 0, 20, "right"), (False, 1, 60, "wrong")]),
    ("1", [(False, 0, 30, "wrong"), (False, 0, 30, "wrong"), (True, 1, 30, "right")]),
    ("5", [(False, -1, 100, "truncated"), (False, -1, 8, "no_answer"), (True, 0, 12, "right")]),
    ("5", [(False, -1, 100, "truncated"), (False, 0, 40, "wrong"), (False, 1, 40, "wrong")]),
)


def test_figures_by_hand():
    found = summarize("x", TABLE, 3, 500, seed=0).summary
    assert found["questions"] == 4
    assert found["accuracy"]["value"] == pytest.approx(4 / 12)
    assert found["majority"]["value"] == pytest.approx(2 / 4)  # questions 0 and 2
    assert found["pass@k"]["1"]["value"] == pytest.approx(4 / 12)
    assert found["pass@k"]["2"]["value"] == pytest.approx((1 + 2 / 3 + 2 / 3 + 0) / 4)
    assert found["pass@k"]["3"]["value"] == pytest.approx(3 / 4)
    assert found["length"] == pytest.approx(480 / 12)
    assert found["length_median"] == 30
    assert found["length_correct"] == pytest.approx((10 + 20 + 30 + 12) / 4)
    assert found["length_incorrect"] == pytest.approx((480 - 72) / 8)
    assert found["truncated_frac"] == pytest.approx(2 / 12)
    assert found["formatted_frac"] == pytest.approx(9 / 12)
    assert {k: v["accuracy"]["value"] for k, v in found["by"]["level"].items()} == pytest.approx({"1": 0.5, "5": 1 / 6})
    assert found["by"]["level"]["5"]["questions"] == 2
    assert found["by"]["subject"] == {}
    for estimate in (found["accuracy"], found["majority"], *found["pass@k"].values()):
        assert estimate["low"] <= estimate["value"] <= estimate["high"]


def test_the_order_of_rows_does_not_matter():
    shuffled = TABLE.sample(frac=1, random_state=1)
    assert summarize("x", shuffled, 3, 100, seed=0).summary == summarize("x", TABLE, 3, 100, seed=0).summary


def test_no_right_response_leaves_its_length_open():
    found = summarize("x", table(("", [(False, -1, 5, "wrong")])), 1, 10, seed=0).summary
    assert found["length_correct"] is None
    assert found["length_incorrect"] == 5


def test_questions_with_missing_responses_are_left_out_and_never_counted_as_wrong():
    short = TABLE.drop(index=[4])
    assert sorted(whole_questions(short, 3)["question"].unique()) == [0, 2, 3]
    with pytest.raises(UserError, match="question 1 has 2 responses, not 3"):
        per_question(short, 3)


def test_the_average_counts_every_set_alike():
    big = summarize("big", pd.concat([TABLE.assign(question=TABLE["question"] + 4 * i) for i in range(50)]), 3, 50, 0)
    small = summarize("small", table(("", [(True, 0, 7, "right")] * 3)), 3, 50, 0)
    found = average_of([big, small])
    assert found["accuracy"]["value"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["length"] == pytest.approx((40 + 7) / 2)
    assert found["sets"] == 2
