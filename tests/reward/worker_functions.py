"""Reward functions that misbehave in every way a worker must survive."""

from __future__ import annotations

import os
import signal
import time


def fine(response: str) -> float:
    return float(len(response))


def everything(**given: object) -> float:
    return float(len(given))


def hang() -> float:
    """Hangs without ever giving the interpreter back to a signal handler."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM, signal.SIGINT})
    while True:
        time.sleep(3600)


def hang_if(response: str) -> float:
    return hang() if "hang" in response else 1.0


def eat_memory() -> float:
    hoard = []
    while True:
        hoard.append(bytearray(2**33))


def die() -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def stop_quietly() -> float:
    os._exit(0)


def pid() -> float:
    return float(os.getpid())


def raise_error(response: str) -> float:
    raise KeyError("no such thing")


def exit_interpreter() -> float:
    raise SystemExit(3)


def not_a_number() -> float:
    return float("nan")


def prints(response: str) -> float:
    print("noise on standard output")
    return 1.0


def recurse() -> float:
    return recurse()
