"""Watches the ranks that Lightning's launcher started: when one dies, all end, and the reason is said."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from pytorch_lightning.strategies.launchers import subprocess_script

POLL_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""Time for this process to report an error of its own: often both ranks meet the same one."""


class RankObserver(threading.Thread):
    """Ends this process and the other ranks when a rank has died.

    A process that waits in a collective for a dead rank hears of no exception, so the end is a hard one.
    Lightning's own observer kills without a word, and also when ranks end on request with an exit code.

    Args:
        ranks: the processes of ranks 1, 2, ...
        report: is told what happened, in one line, before the end.
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
        code = self.ranks[dead - 1].returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.report(f"rank {dead} ended with {how}: the other ranks are ended too")
        for process in self.ranks:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        self.end(1)

    def _dead(self) -> int | None:
        return next((rank for rank, p in enumerate(self.ranks, start=1) if p.poll()), None)


@contextlib.contextmanager
def watched_ranks(report: Callable[[str], None]) -> Iterator[None]:
    """Let this observer take the place of Lightning's while a trainer runs."""

    def say(line: str) -> None:
        report(line)
        print(f"error: {line}", file=sys.stderr, flush=True)

    def observe(child_processes: list[subprocess.Popen]) -> None:
        RankObserver(child_processes, say).start()

    theirs = subprocess_script._launch_process_observer
    subprocess_script._launch_process_observer = observe
    try:
        yield
    finally:
        subprocess_script._launch_process_observer = theirs
