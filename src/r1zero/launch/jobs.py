"""Jobs side by side, each after those that it needs: bases before what starts from them.

Imports nothing slow. A job of this project is a process of its own (:func:`process`), so that memory and random
states go with it and a job that has finished is left alone when the same command is given again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1zero.errors import UserError
from r1zero.launch import sweep
from r1zero.launch.run_folder import one_line

ELSEWHERE = "work in another directory"


@dataclass(frozen=True)
class Job:
    """Something to do once, in a thread of :class:`Jobs`.

    ``run`` returns what went wrong in one line, or nothing. ``needs`` are names of jobs that must have succeeded.
    """

    name: str
    run: Callable[[], str]
    needs: tuple[str, ...] = ()


class Jobs:
    """Takes the first job whose needs are met, in ``workers`` threads; no worker waits while there is such a job.

    A job is taken by one worker alone, and holds nothing while it waits, so jobs can neither run twice nor wait
    for each other.

    Raises:
        ValueError: a need stands behind the job that has it, or nowhere: it would never be met.
    """

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        known: set[str] = set()
        for job in jobs:
            for need in job.needs:
                if need not in known:
                    raise ValueError(f"job {job.name} needs {need}, which does not stand before it")
            known.add(job.name)
        self.waiting, self.workers = list(jobs), workers
        self.ended: dict[str, str] = {}
        self._changed = threading.Condition()

    def run(self) -> dict[str, str]:
        """Do everything; returns {job: error} of those that failed, those that needed them among these."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)  # so that a signal reaches the main thread
        return {name: error for name, error in self.ended.items() if error}

    def _work(self) -> None:
        while (job := self._take()) is not None:
            error = "ended without a word"
            try:
                error = job.run()
            except Exception as caught:
                error = one_line(caught)
            finally:
                with self._changed:
                    self.ended[job.name] = error
                    self._changed.notify_all()

    def _take(self) -> Job | None:
        """The first job that can run; waits while there are only jobs whose needs are being done."""
        with self._changed:
            while self.waiting:
                for job in list(self.waiting):
                    failed = next((need for need in job.needs if self.ended.get(need)), None)
                    if failed is not None:
                        self.waiting.remove(job)
                        self.ended[job.name] = self.ended[failed]
                        self._changed.notify_all()
                    elif all(need in self.ended for need in job.needs):
                        self.waiting.remove(job)
                        return job
                if self.waiting:
                    self._changed.wait()
            return None


def process(
    script: Path, overrides: Sequence[str], folder: Path, names: sweep.Names | None = None, advice: str = ELSEWHERE
) -> str:
    """Run one of the project's scripts in ``folder`` unless that has finished; what went wrong in one line, or nothing.

    See :func:`r1zero.launch.sweep.run_point`: its output is in ``console.log``, a folder with other settings is refused
    with ``advice``.
    """
    try:
        code = sweep.run_point(str(script), overrides, folder, names, advice)
    except UserError as error:
        return str(error)
    return f"{folder}: {sweep.why(folder)}" if code else ""


def pretraining(root: Path, experiment: str, folder: Path, more: Sequence[str] = (), advice: str = ELSEWHERE) -> str:
    """Make a model by an experiment of scripts/pretrain.py unless its folder has one; see :func:`process`.

    A folder without a status that holds a summary and a policy was made elsewhere and is taken as it is.
    """
    made = (folder / "summary.json").is_file() and (folder / "policy" / "config.json").is_file()
    if made and not (folder / "status.json").is_file():
        return ""
    return process(root / "scripts" / "pretrain.py", [f"experiment={experiment}", *more], folder, advice=advice)
