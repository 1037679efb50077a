"""Watches the ranks that Lightning's launcher started: when one dies, all end, and the reason is said."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from r1zero.errors import SyncError, UserError
from r1zero.launch import compat

POLL_SECONDS = 0.5
GONE = re.compile(
    r"Connection (?:closed by peer|reset by peer|refused)|Broken pipe|remote process exited|Socket closed"
)
"""What gloo and NCCL say when the process at the other end of a collective is gone."""

GRACE_SECONDS = 5.0
"""Time for this process to report an error of its own: often both ranks meet the same one."""


class RankObserver(threading.Thread):
    """Ends this process and the other ranks when a rank has died.

    A process that waits in a collective for a dead rank hears of no exception, so the end is a hard one.
    Lightning's own observer kills silently, and also when ranks end on request with an exit code.

    Args:
        ranks: the processes of ranks 1, 2, ...
        report: gets what happened, in one line, before the end.
        end: ends this process with a code.
    """

    def __init__(
        self,
        ranks: Sequence[subprocess.Popen[bytes]],
        report: Callable[[str], None],
        end: Callable[[int], None] = os._exit,
    ) -> None:
        super().__init__(daemon=True, name="rank-observer")
        self.ranks, self.report, self.end = ranks, report, end

    def run(self) -> None:
        """Look until all ranks have ended well or one has not."""
        while any(process.poll() is None for process in self.ranks):
            if self._dead() is not None:
                break
            time.sleep(POLL_SECONDS)
        dead = self._dead()
        if dead is None:
            return
        time.sleep(GRACE_SECONDS)
        self.report(how_it_ended(dead, self.ranks[dead - 1].returncode))
        for process in self.ranks:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        self.end(1)

    def _dead(self) -> int | None:
        return dead_rank(self.ranks)


class ParentObserver(threading.Thread):
    """Ends this rank when the process that started it is gone: rank 0, or torchrun's own.

    With gloo a collective then says that its peer is gone; one of NCCL may wait for half an hour, on a GPU that
    nobody else can use meanwhile.

    Args:
        end: ends this process with a code.
    """

    def __init__(self, end: Callable[[int], None] = os._exit) -> None:
        super().__init__(daemon=True, name="parent-observer")
        self.end, self.parent, self.over = end, os.getppid(), threading.Event()

    def run(self) -> None:
        """Look until all is over here, or the parent has gone."""
        while os.getppid() == self.parent:
            if self.over.wait(POLL_SECONDS):
                return
        if not self.over.wait(GRACE_SECONDS):
            rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK"))
            print(f"[rank {rank}] error: {ORPHAN}", file=sys.stderr, flush=True)
            self.end(1)


ORPHAN = "the process that started this rank has ended, and it can't continue without it"


@contextlib.contextmanager
def watched_ranks(report: Callable[[str], None]) -> Iterator[None]:
    """Let this observer take the place of Lightning's while a trainer runs; a rank that was started watches too."""

    def say(line: str) -> None:
        report(line)
        print(f"error: {line}", file=sys.stderr, flush=True)

    ranks: list[subprocess.Popen] = []

    def observe(child_processes: list[subprocess.Popen]) -> None:
        ranks.extend(child_processes)
        RankObserver(child_processes, say).start()

    parent = ParentObserver()
    if os.environ.get("LOCAL_RANK", "0") != "0" or "TORCHELASTIC_RUN_ID" in os.environ:  # else the user started it
        parent.start()
    try:
        with compat.launched_ranks_observed(observe):
            yield
    except (UserError, SyncError):
        raise
    except Exception as error:
        if line := lost_rank(error, ranks):
            raise UserError(line) from error
        raise
    finally:
        parent.over.set()


def lost_rank(error: Exception, ranks: Sequence[subprocess.Popen[bytes]]) -> str | None:
    """One line where an error only says that another rank is gone; None where it is this rank's own.

    Args:
        error: what a collective raised, or anything else.
        ranks: the processes of ranks 1, 2, ... on the rank that started them; empty on others.
    """
    if not GONE.search(str(error)):
        return None
    until = time.monotonic() + POLL_SECONDS
    while (dead := dead_rank(ranks)) is None and time.monotonic() < until and ranks:
        time.sleep(POLL_SECONDS / 20)
    if dead is not None:
        return how_it_ended(dead, ranks[dead - 1].returncode)
    return "another rank has ended, and this one can't continue without it; the message of the other says why"


def dead_rank(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The first rank that has ended, and not well."""
    return next((rank for rank, process in enumerate(ranks, start=1) if process.poll()), None)


def how_it_ended(rank: int, code: int) -> str:
    """What happened to a rank, in one line."""
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"rank {rank} ended with {how}: the other ranks are ended too"
