"""The grader that training and evaluation share: extraction, exact rules, worker processes, plug-in rewards."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from r1zero.config import RewardConfig
from r1zero.errors import UserError
from r1zero.launch.allowed import check_path
from r1zero.reward import health
from r1zero.reward.extract import EXTRACTORS, Extraction, extract
from r1zero.reward.futures import crash, done, flat, then, when_all
from r1zero.reward.outcome import Outcome, Status
from r1zero.reward.rules import compare
from r1zero.reward.rules.copied import is_copied
from r1zero.reward.signatures import OFFERED
from r1zero.reward.workers.limits import MAX_TEXT
from r1zero.reward.workers.pool import START_SECONDS, WorkerPool

log = logging.getLogger("r1zero")

REMEMBERED = 20_000
"""Verdicts of the worker processes that are kept, by answer and gold; the oldest go first."""

WARN_SECONDS = 600.0
"""Shortest time between two warnings of failed verdicts; those in between are in the log alone."""


@dataclass(frozen=True)
class GradeItem:
    """One response to grade.

    Attributes:
        response: The response alone, never the prompt; its stop string included.
        gold: Acceptable answers, from ``gold.prepare_gold``; () where reward functions alone decide.
        truncated: Whether the token limit cut it.
        question: The question, for plug-in rewards and to know what is copied from it; "" where it is not known.
        extractor: Overrides the grader's extractor.
        tokens: Generated tokens, for plug-in rewards.
        meta: Kept columns of the question (``data.keep``), for plug-in rewards; JSON types.
    """

    response: str | None
    gold: tuple[str, ...]
    truncated: bool = False
    question: str = ""
    extractor: str | None = None
    tokens: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


class Grader:
    """Grades responses; exact rules in the caller's thread, the rest in processes that can be killed.

    Usable from any thread, and as a context manager. The processes start at the first answer that needs
    them, or at ``start``. A worker's verdict on an answer and its gold is remembered, also that there was none:
    an answer that hangs costs its deadline once.

    Args:
        config: Deadline, workers, limits and plug-in rewards.
        extractor: "boxed", "answer_tag", or the import path of a function text -> answer or None: the template's.

    Raises:
        UserError: The extractor is unknown or a setting makes no sense.
    """

    def __init__(self, config: RewardConfig, extractor: str = "boxed") -> None:
        if extractor not in EXTRACTORS:
            if "." not in extractor:
                known = ", ".join(EXTRACTORS)
                raise UserError(f"extractor '{extractor}' is unknown; choose {known}, or the import path of a function")
            check_path(extractor, "template.extractor")
        limits = {"reward.timeout": config.timeout}
        for name, function in config.functions.items():
            if function.timeout is not None:
                limits[f"reward.functions.{name}.timeout"] = function.timeout
        for key, seconds in limits.items():
            if not 0 < seconds < math.inf:
                raise UserError(f"{key}={seconds:g} must be above 0 seconds, and finite")
        if config.workers is not None and config.workers < 1:
            raise UserError(f"reward.workers={config.workers} must be at least 1")
        for name, function in config.functions.items():
            check_path(function.path, f"reward.functions.{name}.path")
        self.config = config
        self.extractor = extractor
        self._pool: Any = None
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._warned: float | None = None
        self._verdicts: OrderedDict[tuple[Any, ...], Future[dict[str, Any]]] = OrderedDict()
        self._checked = False

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
                self._verdicts.clear()  # of another pool: some may never arrive
                count = self.config.workers or default_workers()
                kind = WorkerPool if self.config.pool == "local" else self._on_ray
                self._pool = kind(count, self.config.timeout, self.config.memory_gib)
            return self._pool

    def _on_ray(self, workers: int, timeout: float, memory_gib: float | None) -> Any:
        from r1zero.reward.workers.ray_pool import RayPool

        return RayPool(self.config.address, self.config.machines, workers, timeout, memory_gib)

    def start(self) -> None:
        """Start the worker processes in the background, so that the first answers don't wait for them."""
        self.pool.start()

    def check_functions(self) -> None:
        """Load every plug-in in a worker and see that it takes what it will be given, before anything is sampled.

        Raises:
            UserError: One can't be loaded, or its signature does not fit; in one line.
        """
        if self._checked:
            return
        named = {f"reward.functions.{name}": (f.path, dict(f.params)) for name, f in self.config.functions.items()}
        wanted: list[tuple[str, str, Future[dict[str, Any]]]] = []
        for setting, (path, params) in named.items():
            job: dict[str, Any] = {"kind": "signature", "path": path, "params": params, "offered": list(OFFERED)}
            wanted.append((f"{setting}.path={path}", setting, self.pool.submit(job, START_SECONDS)))
        if self.extractor not in EXTRACTORS:
            job = {"kind": "signature", "path": self.extractor, "params": {}, "offered": None}
            wanted.append((f"template.extractor={self.extractor}", "", self.pool.submit(job, START_SECONDS)))
        for what, setting, future in wanted:
            result = future.result()
            if fault := result.get("fault") or ("error" in result and result.get("detail")):
                raise UserError(f"{what}: {str(fault).splitlines()[0]}")
            if notice := result.get("notice"):
                log.warning("%s: %s", setting, notice)
        self._checked = True

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
            return done(Outcome(Status.truncated, 0.0))
        begin, name = time.perf_counter(), item.extractor or self.extractor
        if name in EXTRACTORS:
            return self._grade(item, extract(item.response, name, self.config.strict_tags), begin)
        found: Future[Extraction | Outcome] = then(
            self.pool.submit({"kind": "extract", "path": name, "text": item.response or ""}), _extraction, crash
        )
        return flat(found, lambda value: value if isinstance(value, Outcome) else self._grade(item, value, begin))

    def _grade(self, item: GradeItem, found: Extraction, begin: float) -> Future[Outcome]:
        """The verifier's verdict and the values of the plug-ins, on an answer that was found."""
        functions = self.config.functions
        alone = not item.gold and any(function.weight > 0 for function in functions.values())
        if alone:
            spent = time.perf_counter() - begin
            verified = done(Outcome(Status.wrong, 0.0, found.answer, "functions", spent))
        else:
            verified = self._verify(item, found, begin)
            if not functions and self.config.weight == 1.0:
                return verified
        arguments = {
            "question": item.question,
            "response": item.response or "",
            "gold": list(item.gold),
            "extracted": found.answer,
            "tokens": item.tokens,
            "meta": dict(item.meta),
        }
        calls = {
            name: self.pool.submit(
                {"kind": "call", "path": function.path, "params": dict(function.params), "arguments": arguments},
                function.timeout,
            )
            for name, function in functions.items()
        }
        return when_all(verified, calls, self._without_verifier if alone else self._sum)

    def _verify(self, item: GradeItem, found: Extraction, begin: float) -> Future[Outcome]:
        """The verifier's own outcome, in which an expression that was copied from the question is wrong."""

        def checked(outcome: Outcome) -> Outcome:
            answer = outcome.extracted
            if not outcome.right or self.config.pay_copied or not is_copied(answer or "", item.gold, item.question):
                return outcome
            return replace(outcome, status=Status.wrong, reward=0.0, rule="copied")

        return then(self._compare(item, found, begin), checked, crash)

    def _compare(self, item: GradeItem, found: Extraction, begin: float) -> Future[Outcome]:
        """Whether the answer equals a gold answer: from exact rules now, or from a worker later."""
        if found.answer is None:
            return done(Outcome(found.status or Status.no_answer, 0.0, seconds=time.perf_counter() - begin))
        answer = found.answer
        key, pool = (answer, item.gold, found.prose), self.pool
        with self._lock:
            known = self._verdicts.get(key)
            if known is not None:
                self._verdicts.move_to_end(key)
        if known is not None:
            seconds = time.perf_counter() - begin
            return then(known, lambda result: _from_worker({**result, "seconds": 0.0}, answer, seconds), crash)
        if not item.gold:
            return done(Outcome(Status.bad_gold, 0.0, answer, seconds=time.perf_counter() - begin))
        try:
            verdict = compare.against_any(answer, item.gold, prose=found.prose)
        except compare.NeedsCas:
            job = {"kind": "compare", "answer": answer, "gold": list(item.gold), "prose": found.prose}
            seconds = time.perf_counter() - begin
            return then(self._asked(pool, key, job), lambda result: _from_worker(result, answer, seconds), crash)
        except Exception as error:  # a defect of a rule must not stop training; it is counted as a crash
            detail = f"{type(error).__name__}: {error}"[:500]
            return done(Outcome(Status.crash, 0.0, answer, "", time.perf_counter() - begin, detail=detail))
        status = Status.right if verdict.right else Status.wrong
        return done(Outcome(status, float(verdict.right), answer, verdict.rule, time.perf_counter() - begin))

    def _asked(self, pool: WorkerPool, key: tuple[Any, ...], job: dict[str, Any]) -> Future[dict[str, Any]]:
        """A worker's verdict, which is remembered from now on, so that who asks meanwhile waits for the same one."""
        future = pool.submit(job)
        with self._lock:
            self._verdicts[key] = future
            while len(self._verdicts) > REMEMBERED:
                self._verdicts.popitem(last=False)
        return future

    def _sum(self, verified: Outcome, results: dict[str, dict[str, Any]]) -> Outcome:
        """Weighted sum of the verifier and the plug-ins."""
        outcome = self._add(verified, self.config.weight * verified.reward, {"verifier": verified.reward}, results)
        return replace(outcome, verdict=verified.right)

    def _without_verifier(self, empty: Outcome, results: dict[str, dict[str, Any]]) -> Outcome:
        """Weighted sum of the plug-ins alone; half of what their positive weights allow makes a response right."""
        outcome = self._add(empty, 0.0, {}, results)
        most = sum(max(function.weight, 0.0) for function in self.config.functions.values())
        right = outcome.reward >= 0.5 * most
        status = outcome.status if outcome.failed else Status.right if right else Status.wrong
        return replace(outcome, status=status, verdict=right)

    def _add(
        self, start: Outcome, reward: float, components: dict[str, float], results: dict[str, dict[str, Any]]
    ) -> Outcome:
        """Add the plug-ins to a reward; one that failed counts 0 and makes the outcome fail."""
        status, detail, seconds = start.status, start.detail, start.seconds
        for name, result in results.items():
            components[name] = _number(result.get("value", 0.0))
            reward += self.config.functions[name].weight * components[name]
            seconds += float(result.get("seconds", 0.0))
            if "error" in result and not start.failed:
                status, detail = Status(result["error"]), f"reward function {name}: {result.get('detail', '')}"
        return replace(start, status=status, reward=reward, components=components, detail=detail, seconds=seconds)

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
                outcome = self._against_itself(form)
                if not outcome.right:
                    bad.append(
                        (index, f"gold {form[:80]!r} does not grade right against itself: {outcome.status.value}")
                    )
                    break
        return bad

    def _against_itself(self, form: str) -> Outcome:
        """The verdict on a gold answer given as the answer; an extractor of the user's is not asked to find it."""
        if self.extractor in EXTRACTORS:
            return self.grade(self.wrap(form), (form,))
        return self._verify(GradeItem(form, (form,)), Extraction(form), time.perf_counter()).result()

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


def _extraction(result: dict[str, Any]) -> Extraction | Outcome:
    """What the user's extractor found, or the outcome of its failure."""
    if "error" in result:
        detail = f"template.extractor: {result.get('detail', '')}"
        return Outcome(Status(result["error"]), 0.0, seconds=float(result.get("seconds", 0.0)), detail=detail)
    answer = result["answer"]
    return Extraction(answer) if answer else Extraction(None, Status.no_answer)


def _from_worker(result: dict[str, Any], answer: str, seconds: float) -> Outcome:
    """The outcome that a worker's result means."""
    total = seconds + float(result.get("seconds", 0.0))
    if "error" in result:
        return Outcome(Status(result["error"]), 0.0, answer, "", total, detail=str(result.get("detail", "")))
    right = result["right"]
    if not isinstance(right, bool):
        raise TypeError(f"a worker answered {right!r:.80} where true or false is expected")
    return Outcome(Status.right if right else Status.wrong, float(right), answer, str(result["rule"]), total)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"a worker answered {value!r:.80} where a finite number is expected")
    return float(value)
