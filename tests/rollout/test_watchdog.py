"""Engines of this process that hang: interrupted where Python can be, ended where it can't."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from r1zero.rollout import watchdog
from r1zero.rollout.watchdog import EngineHangs, Watchdog


def hang(seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_hang_in_python_is_interrupted() -> None:
    begun = time.monotonic()
    with pytest.raises(EngineHangs, match=r"rollout\.timeout_s"), Watchdog(0.5).watching():
        hang()
    assert time.monotonic() - begun < 10


def test_signs_of_life_keep_it_quiet() -> None:
    dog = Watchdog(0.6)
    with dog.watching():
        for _ in range(8):
            hang(0.2)
            dog.beat()


def test_no_limit_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watchdog, "_watch", lambda *args: pytest.fail("it watches"))
    with Watchdog(None).watching():
        pass


def test_an_interruption_that_was_not_heard_does_not_hit_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is on its way when the work ends is awaited there, and never taken back with a null exception:
    CPython's flag for pending exceptions would stay set, and its threads starve each other."""
    asked: list[object] = []
    recorder = SimpleNamespace(PyThreadState_SetAsyncExc=lambda thread, what: asked.append(what and what.value))
    monkeypatch.setattr(watchdog.ctypes, "pythonapi", recorder)
    heard: list[float] = []

    def late(seconds: float) -> None:
        heard.append(seconds)
        if len(heard) == 3:
            raise EngineHangs

    dog = Watchdog(0.25)
    with dog.watching():
        hang(0.8)
        monkeypatch.setattr(watchdog.time, "sleep", late)
    assert len(heard) == 3
    assert asked == [EngineHangs]


def test_a_process_that_was_suspended_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is counted in looks: the clock may jump by hours (SLURM suspends jobs, laptops are closed)."""
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)
    dog = Watchdog(5.0)
    with dog.watching():
        time.sleep(0.6)
    assert dog._idle < 5


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
        stuck.acquire(timeout=30)  # one call into C, which no exception reaches
    assert codes == [1]
    (line,) = told
    assert capsys.readouterr().err == f"error: {line}\n"
    assert "made no step for 0.3 s (rollout.timeout_s)" in line
    assert "resume=" in line
