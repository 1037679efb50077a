"""Reward functions that misbehave in every way a worker must survive."""

from __future__ import annotations

import glob
import os
import signal
import stat
import subprocess
import sys
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


def say(text: str, lines: int = 1) -> float:
    """Writes into the worker's own socket, in its place."""
    for entry in glob.glob("/proc/self/fd/*"):
        number = int(entry.rpartition("/")[2])
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                for _ in range(lines):
                    data = text.encode("utf-8", "surrogateescape")
                    while data:
                        data = data[os.write(number, data) :]
        except OSError:
            continue
    return 1.0


SLEEPER = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"


def popen(file: str, new_session: bool, then: str) -> float:
    """Starts a process that outlives the call, notes its number, and hangs, dies or returns."""
    subprocess.Popen([sys.executable, "-c", SLEEPER, file], start_new_session=new_session)
    return _end(file, then)


def fork(file: str, new_session: bool, then: str) -> float:
    """The same by fork, and the child forks once more."""
    if os.fork() == 0:
        if new_session:
            os.setsid()
        os.fork()
        with open(file, "a") as out:
            out.write(f"{os.getpid()}\n")
        time.sleep(600)
    return _end(file, then)


def _end(file: str, then: str) -> float:
    while not os.path.exists(file) or os.path.getsize(file) == 0:
        time.sleep(0.01)
    if then == "exit":
        os._exit(0)
    if then == "hang":
        time.sleep(600)
    return 1.0


def forked_twin() -> float:
    """Both sides of a fork come back from the call."""
    return 2.0 if os.fork() else 3.0


def slow(seconds: float) -> float:
    time.sleep(seconds)
    return 1.0


def with_meta(meta: dict[str, object], response: str) -> float:
    return float(meta["wanted"] == response)


def needs_more(response: str, answer_sheet: str) -> float:
    return 0.0


def half(response: str) -> float:
    return 0.5 if "half" in response else 0.49


def with_notice(response: str) -> float:
    return 0.0


with_notice.notice = lambda: "nothing is private here"


def last_word(text: str) -> str | None:
    return text.split()[-1] if text.split() else None


def bad_extractor(text: str) -> int:
    return 5


def takes_two(text: str, more: str) -> str:
    return text + more
