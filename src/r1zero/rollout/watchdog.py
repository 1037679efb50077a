"""An engine of this process that hangs: interrupted where Python can be, ended where it can't."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TICK = 0.25
"""Seconds between looks. Time is counted in looks, so a process that was suspended as a whole is not late."""
GRACE = 30.0
"""Seconds for the interruption to be heard; code that never returns to Python does not hear it."""


class EngineHangs(RuntimeError):
    """The engine made no step for too long; it is to be started again."""

    def __str__(self) -> str:
        return "it made no step for too long (rollout.timeout_s)"


class Watchdog:
    """Watches work that gives signs of life by :meth:`beat`.

    A hang in Python (an engine's worker process that is stopped or gone, a lost message) raises
    :class:`EngineHangs` in the thread that works, and the caller starts another engine. A hang in a library call
    or on the device can't be interrupted by anybody: after ``GRACE`` seconds the reason is said and the process
    ends, so that a scheduler or the user can resume from the last checkpoint instead of waiting for ever.

    Args:
        timeout_s: seconds without a sign of life that are allowed; None: no end of patience.
        report: gets the reason, in one line, before the process ends.
        end: ends the process.
    """

    def __init__(
        self,
        timeout_s: float | None,
        report: Callable[[str], None] | None = None,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.timeout_s, self.report, self.end = timeout_s, report, end
        self._idle = 0.0
        self._lock = threading.Lock()

    def beat(self) -> None:
        """A sign of life."""
        self._idle = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the calling thread while it works."""
        if self.timeout_s is None:
            yield
            return
        self._idle = 0.0
        thread, over, fired = threading.get_ident(), threading.Event(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=(thread, over, fired), daemon=True, name="watchdog")
        watcher.start()
        heard = False
        try:
            yield
        except EngineHangs:
            heard = True
            raise
        finally:
            with self._lock:
                over.set()
            # What was fired and not heard yet must not be heard later. Taking it back with a null exception would
            # leave CPython's flag for pending exceptions set for ever, and its threads then starve each other.
            if fired.is_set() and not heard:
                with suppress(EngineHangs):
                    for _ in range(100):
                        time.sleep(0.001)

    def _watch(self, thread: int, over: threading.Event, fired: threading.Event) -> None:
        assert self.timeout_s is not None
        # A traced thread (a debugger, coverage) of CPython 3.11 never gets past the start of a function while an
        # asynchronous exception is pending in another one; this thread must.
        sys.settrace(None)
        sys.setprofile(None)
        while not over.wait(TICK):
            self._idle += TICK
            with self._lock:
                if over.is_set():
                    return
                if self._idle >= self.timeout_s and not fired.is_set():
                    fired.set()
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(EngineHangs))
            if self._idle >= self.timeout_s + GRACE:
                line = (
                    f"the engine in this process made no step for {self.timeout_s:g} s (rollout.timeout_s) and can't "
                    "be interrupted, so the run ends here; resume=<its folder> continues from the last checkpoint"
                )
                if self.report is not None:
                    self.report(line)
                print(f"error: {line}", file=sys.stderr, flush=True)
                self.end(1)
                return
