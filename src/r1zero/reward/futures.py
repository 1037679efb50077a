"""Outcomes that arrive later, put together; whatever a worker answers, no future is left open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from r1zero.reward.outcome import Outcome, Status

A = TypeVar("A")
B = TypeVar("B")


def done(outcome: Outcome) -> Future[Outcome]:
    """A future that has its outcome already."""
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def crash(error: Exception) -> Outcome:
    """A result that can't be read: a fault of the worker's, or of ours, and no reason to leave a future open."""
    return Outcome(Status.crash, 0.0, detail=f"{type(error).__name__}: {error}"[:500])


def then(job: Future[A], convert: Callable[[A], B], failed: Callable[[Exception], B]) -> Future[B]:
    """What a result means, once it is there; a conversion that raises gives ``failed`` of its error."""
    future: Future[B] = Future()

    def arrived(first: Future[A]) -> None:
        try:
            value = convert(first.result())
        except Exception as error:
            value = failed(error)
        future.set_result(value)

    job.add_done_callback(arrived)
    return future


def flat(job: Future[A], follow: Callable[[A], Outcome | Future[Outcome]]) -> Future[Outcome]:
    """The outcome of work that begins when a first result is there."""
    future: Future[Outcome] = Future()

    def arrived(first: Future[A]) -> None:
        try:
            value = follow(first.result())
        except Exception as error:
            value = crash(error)
        if isinstance(value, Outcome):
            future.set_result(value)
        else:
            value.add_done_callback(lambda last: future.set_result(last.result()))

    job.add_done_callback(arrived)
    return future


def when_all(
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
        try:
            outcome = combine(verified.result(), {name: call.result() for name, call in calls.items()})
        except Exception as error:
            outcome = crash(error)
        future.set_result(outcome)

    parts: list[Future[Any]] = [verified, *calls.values()]
    for part in parts:
        part.add_done_callback(arrived)
    return future
