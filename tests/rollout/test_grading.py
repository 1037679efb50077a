"""Verdicts on finished groups while others are sampled are those of grading everything at the end."""

from __future__ import annotations

from typing import Any

import pytest

from r1zero.batch import Completion, Prompt, PromptBatch, Question
from r1zero.config import RewardConfig
from r1zero.reward.grader import Grader
from r1zero.rollout.grading import Grading

ANSWERS = ["4", "5", "\\frac{1}{2}", "0.5", "x"]


def step_of(number: int) -> tuple[PromptBatch, list[list[Completion]]]:
    """Three questions, five responses each, one of them cut by the limit."""
    golds = ["4", "1/2", "x"]
    prompts = [Prompt(Question(f"q{i}", (gold,)), "", [1]) for i, gold in enumerate(golds)]
    groups = [
        [Completion([1, 2], f"\\boxed{{{a}}}", "length" if (i, a) == (0, "4") else "stop") for a in ANSWERS]
        for i in range(3)
    ]
    return PromptBatch(number, 0, prompts), groups


class Telling:
    """An engine that tells of finished groups in an order of its own."""

    def __init__(self, order: list[int], fails: bool = False) -> None:
        self.on_group: Any = None
        self.order, self.fails = order, fails

    def generate(self, groups: list[list[Completion]]) -> None:
        for index in self.order:
            self.on_group(index, groups[index])
        if self.fails:
            raise RuntimeError("gone")


@pytest.mark.parametrize("order", [[2, 0, 1], [1], []])
def test_streamed_verdicts_are_those_of_the_end(order: list[int]) -> None:
    batch, groups = step_of(0)
    with Grader(RewardConfig(name="math_verify", workers=1)) as grader:
        submitted: list[str] = []
        plain = grader.submit
        grader.submit = lambda item: (submitted.append(item.question), plain(item))[1]  # type: ignore[method-assign]
        grading, engine = Grading(grader), Telling(order)  # type: ignore[arg-type]
        with grading.listening(engine, batch):  # type: ignore[arg-type]
            engine.generate(groups)
            assert submitted == [f"q{i}" for i in order for _ in ANSWERS], "graded as they are told of, not later"
        streamed = grading.outcomes(batch, groups)
        assert len(submitted) == 15, "no group is graded twice"
        assert engine.on_group is None
        at_end = Grading(grader).outcomes(batch, groups)  # type: ignore[arg-type]
    assert [(o.status, o.reward, o.rule) for o in streamed] == [(o.status, o.reward, o.rule) for o in at_end]
    assert [o.reward for o in streamed] == [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1]


def test_an_engine_that_fails_midway_leaves_no_verdict_behind() -> None:
    """The engine that starts over may draw other responses for the same place."""
    batch, groups = step_of(3)
    other = [[Completion([1], "\\boxed{x}", "stop") for _ in ANSWERS] for _ in groups]
    with Grader(RewardConfig(name="math_verify", workers=1)) as grader:
        grading, engine = Grading(grader), Telling([0, 1, 2], fails=True)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="gone"), grading.listening(engine, batch):  # type: ignore[arg-type]
            engine.generate(groups)
        assert [o.reward for o in grading.outcomes(batch, other)] == [0] * 10 + [1] * 5
