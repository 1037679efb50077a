"""Signals that ask a run to stop: Ctrl-C, SIGTERM, SIGUSR1 of a queue, SIGHUP of a lost terminal (docs/signals.md)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

from r1zero.errors import Stopped

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
"""The last word of a command that a signal has ended; others go by their name."""


def word(number: int) -> str:
    """What is said where a signal has ended a command."""
    return WORDS.get(signal.Signals(number), f"stopped by {signal.Signals(number).name}")


def take(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Let a function handle the stopping signals; the handlers of before, for :func:`give_back`.

    A signal that is ignored stays ignored: so ``nohup``, and shells that start a command in the background, say that
    it is not to end the command.
    """
    before = {}
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[int(number)] = signal.signal(number, handler)
    return before


def give_back(before: dict[int, Any]) -> None:
    """Put earlier handlers back."""
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_at_once(number: int, frame: Any) -> None:
    """End whatever is under way. Raises ``Stopped``."""
    if number == signal.SIGHUP:
        leave_terminal()
    raise Stopped(number)


def leave_terminal() -> None:
    """Let output that would go to a lost terminal go nowhere: each write there is an error from now on."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_rdev in _TERMINALS:
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def note_terminals() -> None:
    """Remember which devices are terminals while they can still be asked."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(descriptor):
                _TERMINALS.add(os.fstat(descriptor).st_rdev)


_TERMINALS: set[int] = set()


def ignore() -> None:
    """Leave the signals to the process that started this one: a terminal and a queue send them to all of a group."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
