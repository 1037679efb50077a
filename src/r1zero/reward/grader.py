"""The grader that training and evaluation share: extraction, exact rules, worker processes, plug-in rewards."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from r1zero.config import RewardConfig
from r1zero.errors import UserError
from r1zero.launch.targets import check_function_path
from r1zero.reward import health
from r1zero.reward.extract import EXTRACTORS, Extraction, extract
from r1zero.reward.outcome import Outcome, Status
from r1zero.reward.rules import compare
from r1zero.reward.workers.limits import MAX_TEXT
from r1zero.reward.workers.pool import WorkerPool

WARN_SECONDS = 600.0
"""Shortest time between two warnings of failed verdicts; those in between are in the log alone."""


@dataclass(frozen=True)
class GradeItem:
    """One response to grade.

    Attributes:
        response: The response alone, never the prompt; its stop string included.
        gold: Acceptable answers, from ``gold.prepare_gold``.
        truncated: Whether the token limit cut it.
        question: The question, for plug-in rewards.
        extractor: Overrides the grader's extractor.
        tokens: Generated tokens, for plug-in rewards.
    """

    response: str | None
    gold: tuple[str, ...]
    truncated: bool = False
    question: str = ""
    extractor: str | None = None
    tokens: int | None = None


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
        _check_functions(config)
        self.config = config
        self.extractor = extractor
        self._pool: WorkerPool | None = None
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._warned: float | None = None

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

        What exact rules decide is decided before this returns. A response that the token limit cut gets
        reward 0 and no plug-in sees it (semantics 1).
        """
        if item.truncated:
            return _done(Outcome(Status.truncated, 0.0))
        begin = time.perf_counter()
        found = extract(item.response, item.extractor or self.extractor, self.config.strict_tags)
        verified = self._verify(item, found, begin)
        functions = self.config.functions
        if not functions and self.config.weight == 1.0:
            return verified
        arguments = {
            "question": item.question,
            "response": item.response or "",
            "gold": list(item.gold),
            "extracted": found.answer,
            "tokens": item.tokens,
        }
        calls = {
            name: self.pool.submit(
                {"kind": "call", "path": function.path, "params": dict(function.params), "arguments": arguments}
            )
            for name, function in functions.items()
        }
        return _when_all(verified, calls, self._sum)

    def _verify(self, item: GradeItem, found: Extraction, begin: float) -> Future[Outcome]:
        """The verifier's own outcome: from exact rules now, or from a worker later."""
        if found.answer is None:
            return _done(Outcome(found.status or Status.no_answer, 0.0, seconds=time.perf_counter() - begin))
        answer = found.answer
        if not item.gold:
            return _done(Outcome(Status.bad_gold, 0.0, answer, seconds=time.perf_counter() - begin))
        try:
            verdict = compare.against_any(answer, item.gold, prose=found.prose)
        except compare.NeedsCas:
            job = {"kind": "compare", "answer": answer, "gold": list(item.gold), "prose": found.prose}
            seconds = time.perf_counter() - begin
            return _then(self.pool.submit(job), lambda result: _from_worker(result, answer, seconds))
        except Exception as error:  # a defect of a rule must not stop training; it is counted as a crash
            detail = f"{type(error).__name__}: {error}"[:500]
            return _done(Outcome(Status.crash, 0.0, answer, "", time.perf_counter() - begin, detail=detail))
        status = Status.right if verdict.right else Status.wrong
        return _done(Outcome(status, float(verdict.right), answer, verdict.rule, time.perf_counter() - begin))

    def _sum(self, verified: Outcome, results: dict[str, dict[str, Any]]) -> Outcome:
        """Weighted sum of the verifier and the plug-ins; a plug-in that failed counts 0 and makes the outcome fail."""
        components = {"verifier": verified.reward}
        reward = self.config.weight * verified.reward
        status, detail, seconds = verified.status, verified.detail, verified.seconds
        for name, result in results.items():
            components[name] = float(result.get("value", 0.0))
            reward += self.config.functions[name].weight * components[name]
            seconds += float(result.get("seconds", 0.0))
            if "error" in result and not verified.failed:
                status, detail = Status(result["error"]), f"reward function {name}: {result.get('detail', '')}"
        return replace(verified, status=status, reward=reward, components=components, detail=detail, seconds=seconds)

    def explain(self, item: GradeItem) -> dict[str, Any]:
        """What was extracted, how both sides are spelled and parsed, and which rule decided.

        Returns:
            ``outcome``, and for each gold answer its canonical form and what math-verify reads in it; the
            latter also for the answer. Texts for a person.
        """
        outcome = self.submit(item).result()
        texts = [*item.gold, *([outcome.extracted] if outcome.extracted else [])]
        parsed = [self.pool.submit({"kind": "explain", "text": text}).result() for text in texts]
        return {
            "outcome": outcome,
            "forms": [
                {
                    "text": text,
                    "canonical": result.get("canonical", ""),
                    "parsed": result.get("parsed", result.get("detail", "")),
                }
                for text, result in zip(texts, parsed, strict=True)
            ],
        }

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
                if len(form) > MAX_TEXT:
                    bad.append(
                        (index, f"gold {form[:80]!r}... has {len(form)} characters, more than the {MAX_TEXT} compared")
                    )
                    break
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

    def check_health(self, outcomes: Sequence[Outcome], share: float | None = None) -> None:
        """Warn, at most once in ``WARN_SECONDS``, or raise by the configured limits (see ``health.check_health``)."""
        now = time.monotonic()
        again = self._warned is not None and now - self._warned < WARN_SECONDS
        if (
            health.check_health(outcomes, self.config.warn_failures, self.config.stop_failures, share, again)
            and not again
        ):
            self._warned = now


def available_cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Cores - 1, from 1 to 8, shared among the processes of this machine that train together."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, (available_cores() - 1) // max(ranks, 1)))


def _check_functions(config: RewardConfig) -> None:
    """Say early that a plug-in's module does not exist; the function itself is imported in the workers alone."""
    for name, function in config.functions.items():
        check_function_path(function.path, f"reward.functions.{name}.path")
        module = function.path.rpartition(".")[0]
        try:
            found = bool(module) and importlib.util.find_spec(module) is not None
        except ImportError:
            found = False
        if not found:
            raise UserError(
                f"reward.functions.{name}.path={function.path}: there is no module '{module}'; "
                "name a function by its import path, package.module.function"
            )


def _done(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _then(job: Future[dict[str, Any]], convert: Callable[[dict[str, Any]], Outcome]) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    job.add_done_callback(lambda done: future.set_result(convert(done.result())))
    return future


def _when_all(
    verified: Future[Outcome],
    calls: dict[str, Future[dict[str, Any]]],
    combine: Callable[[Outcome, dict[str, dict[str, Any]]], Outcome],
) -> Future[Outcome]:
    """The combination of several results, once all are there."""
    future: Future[Outcome] = Future()
    left = [1 + len(calls)]
    lock = threading.Lock()

    def arrived(_: Future[Any]) -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        future.set_result(combine(verified.result(), {name: call.result() for name, call in calls.items()}))

    parts: list[Future[Any]] = [verified, *calls.values()]
    for part in parts:
        part.add_done_callback(arrived)
    return future


def _from_worker(result: dict[str, Any], answer: str, seconds: float) -> Outcome:
    """The outcome that a worker's result means."""
    total = seconds + float(result.get("seconds", 0.0))
    if "error" in result:
        return Outcome(Status(result["error"]), 0.0, answer, "", total, detail=str(result.get("detail", "")))
    right = bool(result["right"])
    return Outcome(Status.right if right else Status.wrong, float(right), answer, str(result["rule"]), total)
