"""Engines of this process that hang: interrupted where Python can be, ended where it can't."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from r1zero.rollout import watchdog
from r1zero.rollout.watchdog import EngineHangs, Watchdog


def hang(seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


class Looks:
    """Stands in for the event that the watcher waits on: it looks ``count`` times, at no time at all."""

    def __init__(self, count: int, between: Callable[[], None] = lambda: None) -> None:
        self.count, self.between = count, between

    def wait(self, seconds: float) -> bool:
        assert seconds == watchdog.TICK
        self.count -= 1
        self.between()
        return self.count < 0

    def is_set(self) -> bool:
        return False


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was raised in other threads; nothing really is."""
    found: list[Any] = []
    recorder = SimpleNamespace(PyThreadState_SetAsyncExc=lambda thread, what: found.append(what and what.value))
    monkeypatch.setattr(watchdog.ctypes, "pythonapi", recorder)
    return found


def watch(dog: Watchdog, looks: Looks) -> None:
    """The watcher's work, in a thread of its own as ever: it turns its tracer off."""
    event: Any = looks
    thread = threading.Thread(target=dog._watch, args=(threading.get_ident(), event, threading.Event()))
    thread.start()
    thread.join()


def test_a_hang_in_python_is_interrupted() -> None:
    with pytest.raises(EngineHangs, match=r"rollout\.timeout_s"), Watchdog(0.5).watching():
        hang()


def test_it_fires_once_after_as_many_looks_as_the_time_has(asked: list[Any]) -> None:
    looks = round(10 / watchdog.TICK)
    watch(Watchdog(10.0), Looks(looks - 1))
    assert asked == []
    watch(Watchdog(10.0), Looks(looks + 5))
    assert asked == [EngineHangs]


def test_signs_of_life_keep_it_quiet(asked: list[Any]) -> None:
    dog, seen = Watchdog(1.0), [0]

    def beat() -> None:
        seen[0] += 1
        if seen[0] % 3 == 0:  # 0.75 s apart
            dog.beat()

    watch(dog, Looks(1000, beat))
    assert asked == []


def test_no_limit_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watchdog, "_watch", lambda *args: pytest.fail("it watches"))
    with Watchdog(None).watching():
        pass


def test_an_interruption_that_was_not_heard_does_not_hit_what_comes_next(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    """One that is on its way when the work ends is awaited there, and never taken back with a null exception:
    CPython's flag for pending exceptions would stay set, and its threads starve each other."""
    heard: list[float] = []

    def late(seconds: float) -> None:
        heard.append(seconds)
        if len(heard) == 3:
            raise EngineHangs

    with Watchdog(0.25).watching():
        while not asked:
            time.sleep(0.01)
        monkeypatch.setattr(watchdog.time, "sleep", late)
    assert len(heard) == 3
    assert asked == [EngineHangs]


def test_a_process_that_was_suspended_is_not_late(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    """Time is counted in looks: clocks may jump by hours (SLURM suspends jobs, laptops are closed)."""
    hours = itertools.count(0.0, 3600.0)
    for clock in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock, lambda: next(hours))
    watch(Watchdog(5.0), Looks(10))
    monkeypatch.undo()
    assert asked == []


@pytest.mark.parametrize("traced", [False, True])
def test_a_hang_that_nothing_interrupts_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, traced: bool
) -> None:
    """The reason is told and printed in one line; ``end`` would be ``os._exit``. A debugger or coverage, which
    trace every thread, must not hold the watcher up."""
    monkeypatch.setattr(watchdog, "GRACE", 0.5)
    if traced:
        before = threading.gettrace()
        monkeypatch.setattr(threading, "_trace_hook", before or (lambda *args: None))
    told: list[str] = []
    codes: list[int] = []
    stuck = threading.Lock()
    stuck.acquire()

    def end(code: int) -> None:
        codes.append(code)
        stuck.release()

    with pytest.raises(EngineHangs), Watchdog(0.3, told.append, end).watching():
        stuck.acquire(timeout=60)  # one call into C, which no exception reaches
    assert codes == [1]
    (line,) = told
    assert capsys.readouterr().err == f"error: {line}\n"
    assert "made no step for 0.3 s (rollout.timeout_s)" in line
    assert "resume=" in line
