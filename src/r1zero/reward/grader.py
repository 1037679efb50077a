"""The grader that training and evaluation share: extraction, exact rules, worker processes, plug-in rewards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from r1zero.config import RewardConfig
from r1zero.errors import UserError
from r1zero.reward import compare, health
from r1zero.reward.extract import EXTRACTORS, Extraction, extract
from r1zero.reward.outcome import Outcome, Status
from r1zero.reward.pool import WorkerPool


@dataclass(frozen=True)
class GradeItem:
    """One response to grade.

    Attributes:
        response: The response alone, never the prompt; its stop string included.
        gold: Acceptable answers, from ``gold.prepare_gold``.
        truncated: Whether the token limit cut it.
        question: The question, for plug-in rewards.
        extractor: Overrides the grader's extractor.
    """

    response: str | None
    gold: tuple[str, ...]
    truncated: bool = False
    question: str = ""
    extractor: str | None = None


class Grader:
    """Grades responses; exact rules in the caller's thread, the rest in processes that can be killed.

    Usable from any thread, and as a context manager. The processes start at the first answer that needs
    them, or at ``start``.

    Args:
        config: Deadline, workers, limits and plug-in rewards.
        extractor: "boxed" or "answer_tag": the template's.

    Raises:
        UserError: The extractor is unknown or a setting makes no sense.
    """

    def __init__(self, config: RewardConfig, extractor: str = "boxed") -> None:
        if extractor not in EXTRACTORS:
            raise UserError(f"extractor '{extractor}' is unknown; choose one of {', '.join(EXTRACTORS)}")
        if config.timeout <= 0:
            raise UserError(f"reward.timeout={config.timeout:g} must be above 0 seconds")
        if config.workers is not None and config.workers < 1:
            raise UserError(f"reward.workers={config.workers} must be at least 1")
        self.config = config
        self.extractor = extractor
        self._pool: WorkerPool | None = None
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pool(self) -> WorkerPool:
        """The worker pool of this process; a forked child gets one of its own."""
        with self._lock:
            if self._pool is None or self._owner != os.getpid():
                self._owner = os.getpid()
                count = self.config.workers or default_workers()
                self._pool = WorkerPool(count, self.config.timeout, self.config.memory_gib)
            return self._pool

    def start(self) -> None:
        """Start the worker processes in the background, so that the first answers don't wait for them."""
        self.pool.start()

    def close(self) -> None:
        """Kill the worker processes."""
        if self._pool is not None and self._owner == os.getpid():
            self._pool.close()
            self._pool = None

    def grade(self, response: str | None, gold: tuple[str, ...], **fields: Any) -> Outcome:
        """Grade one response."""
        return self.submit(GradeItem(response, gold, **fields)).result()

    def grade_batch(self, items: Sequence[GradeItem]) -> list[Outcome]:
        """Grade responses; outcomes in the order of the items."""
        return [future.result() for future in [self.submit(item) for item in items]]

    def submit(self, item: GradeItem) -> Future[Outcome]:
        """Start to grade one response while others are still sampled; the future never raises.

        What exact rules decide is decided before this returns.
        """
        begin = time.perf_counter()
        future: Future[Outcome] = Future()
        if item.truncated:
            future.set_result(Outcome(Status.truncated, 0.0))
            return future
        found = self._extract(item)
        outcome: Outcome | None = None
        if found.answer is None:
            outcome = Outcome(found.status or Status.no_answer, 0.0)
        elif not item.gold:
            outcome = Outcome(Status.bad_gold, 0.0, found.answer)
        else:
            try:
                verdict = compare.against_any(found.answer, item.gold, prose=found.prose)
            except compare.NeedsCas:
                pass
            except Exception as error:
                outcome = Outcome(Status.crash, 0.0, found.answer, detail=f"{type(error).__name__}: {error}"[:500])
            else:
                status = Status.right if verdict.right else Status.wrong
                outcome = Outcome(status, float(verdict.right), found.answer, verdict.rule)
        seconds = time.perf_counter() - begin
        if outcome is not None:
            future.set_result(_timed(outcome, seconds))
            return future
        assert found.answer is not None
        job = {"kind": "compare", "answer": found.answer, "gold": list(item.gold), "prose": found.prose}
        answer = found.answer

        def finish(done: Future[dict[str, Any]]) -> None:
            future.set_result(_from_worker(done.result(), answer, seconds))

        self.pool.submit(job).add_done_callback(finish)
        return future

    def _extract(self, item: GradeItem) -> Extraction:
        return extract(item.response, item.extractor or self.extractor, self.config.strict_tags)

    def audit_golds(self, golds: Sequence[tuple[str, ...]]) -> list[tuple[int, str]]:
        """Indices and reasons of gold answers that don't grade right against themselves.

        Each form is put where the template wants the answer and graded like a response (trap 48).
        """
        bad: list[tuple[int, str]] = []
        for index, forms in enumerate(golds):
            if not forms:
                bad.append((index, "there is no gold answer"))
                continue
            for form in forms:
                outcome = self.grade(self.wrap(form), (form,))
                if not outcome.right:
                    bad.append(
                        (index, f"gold {form[:80]!r} does not grade right against itself: {outcome.status.value}")
                    )
                    break
        return bad

    def wrap(self, answer: str, extractor: str | None = None) -> str:
        """The shortest response that gives this answer."""
        if (extractor or self.extractor) == "boxed":
            return f"\\boxed{{{answer}}}"
        return f"</think> <answer> {answer} </answer>"

    def stats(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Health of the verifier over some outcomes (see ``health.summarise``)."""
        return health.summarise(outcomes)

    def check_health(self, outcomes: Sequence[Outcome]) -> None:
        """Warn or raise by the configured limits (see ``health.check_health``)."""
        health.check_health(outcomes, self.config.warn_failures, self.config.stop_failures)


def default_workers() -> int:
    """Cores - 1, from 1 to 8, shared among the processes of this machine that train together."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, (cores - 1) // max(ranks, 1)))


def _timed(outcome: Outcome, seconds: float) -> Outcome:
    return Outcome(
        outcome.status, outcome.reward, outcome.extracted, outcome.rule, seconds, outcome.components, outcome.detail
    )


def _from_worker(result: dict[str, Any], answer: str, seconds: float) -> Outcome:
    """The outcome that a worker's result means."""
    total = seconds + float(result.get("seconds", 0.0))
    if "error" in result:
        return Outcome(Status(result["error"]), 0.0, answer, "", total, detail=str(result.get("detail", "")))
    right = bool(result["right"])
    return Outcome(Status.right if right else Status.wrong, float(right), answer, str(result["rule"]), total)
