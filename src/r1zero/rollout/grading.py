"""Grades a rollout's responses while others are still sampled."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from r1zero.batch import Completion, PromptBatch
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.outcome import Outcome
from r1zero.rollout.engine import Engine


class Grading:
    """Hands finished groups to the grader as they come; what was not reported is graded at the end.

    The outcomes are those of grading everything at the end: a verdict depends on the response alone.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        self._begun: dict[tuple[int, int], list[Future[Outcome]]] = {}

    @contextmanager
    def listening(self, engine: Engine, batch: PromptBatch) -> Iterator[None]:
        """Grade groups as the engine finishes them; an engine that reports none is left alone."""
        target: Any = engine
        self._drop(batch.step)
        if not hasattr(target, "on_group"):
            yield
            return
        target.on_group = lambda index, group: self._submit(batch, index, group)
        try:
            yield
        except BaseException:
            self._drop(batch.step)  # another engine starts over
            raise
        finally:
            target.on_group = None

    def outcomes(self, batch: PromptBatch, groups: list[list[Completion]]) -> list[Outcome]:
        """One outcome a response, in order."""
        for index, group in enumerate(groups):
            if (batch.step, index) not in self._begun:
                self._submit(batch, index, group)
        futures = [future for index in range(len(groups)) for future in self._begun[batch.step, index]]
        self._drop(batch.step)
        return [future.result() for future in futures]

    def _submit(self, batch: PromptBatch, index: int, group: list[Completion]) -> None:
        question = batch.prompts[index].question
        self._begun[batch.step, index] = [
            self.grader.submit(
                GradeItem(
                    response=completion.text,
                    gold=question.gold,
                    truncated=completion.truncated,
                    question=question.text,
                    tokens=completion.length,
                    meta=question.meta,
                )
            )
            for completion in group
        ]

    def _drop(self, step: int) -> None:
        for key in [key for key in self._begun if key[0] == step]:
            del self._begun[key]
