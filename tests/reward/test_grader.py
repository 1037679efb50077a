"""The grader as training uses it: order, statuses, any thread, clean-up (traps 45, 46, 48, 49)."""

from __future__ import annotations

import threading

import pytest

from r1zero.config import RewardConfig
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.outcome import Status


@pytest.fixture(scope="module")
def grader():
    with Grader(RewardConfig(name="test", timeout=3.0, workers=2)) as grader:
        yield grader


def test_outcomes_come_in_order_with_their_status(grader):
    """Right, wrong, no box, cut off, no gold: one status each, in the order of the items."""
    items = [
        GradeItem("so \\boxed{4}", ("4",)),
        GradeItem("so \\boxed{\\sin^2 x+\\cos^2 x}", ("1",)),
        GradeItem("so \\boxed{5}", ("4",)),
        GradeItem("so 4", ("4",)),
        GradeItem("so \\boxed{4}", ("4",), truncated=True),
        GradeItem("so \\boxed{4}", ()),
        GradeItem("</think> <answer> 4 </answer>", ("4",), extractor="answer_tag"),
        GradeItem("<answer> 4 </answer>", ("4",), extractor="answer_tag"),
        GradeItem(None, ("4",)),
    ]
    outcomes = grader.grade_batch(items)
    assert [outcome.status.value for outcome in outcomes] == (
        ["right", "right", "wrong", "no_answer", "truncated", "bad_gold", "right", "unformatted", "no_answer"]
    )
    assert [outcome.reward for outcome in outcomes] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]


def test_grading_works_in_a_thread(grader):
    """math-verify needs the main thread for its alarm; the workers have their own (trap 45)."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(grader.grade("\\boxed{\\sqrt{8}}", ("2\\sqrt{2}",))))
    thread.start()
    thread.join(timeout=30)
    assert outcomes[0].status is Status.right
