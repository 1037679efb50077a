"""Jobs side by side, each after those that it needs: bases before what starts from them.

Imports nothing slow. A job of this project is a process of its own (:func:`process`), so that memory and random
states go with it and a job that has finished is left alone when the same command is given again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from queue import PriorityQueue, SimpleQueue

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
    """Does the first job whose needs are met, in ``workers`` threads; no worker waits while there is such a job.

    A job is taken by one worker alone, and holds nothing while it waits, so jobs can neither run twice nor wait
    for each other.

    Raises:
        ValueError: a job needs one that is not there, or jobs need each other in a circle.
    """

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self.jobs, self.workers = {job.name: job for job in jobs}, workers
        for job in jobs:
            for need in job.needs:
                if need not in self.jobs:
                    raise ValueError(f"job {job.name} needs {need}, which is not there")
        self._order = TopologicalSorter({job.name: job.needs for job in jobs})
        self._order.prepare()
        self._ready: PriorityQueue[tuple[float, str]] = PriorityQueue()
        self._ended: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def run(self) -> dict[str, str]:
        """Do everything; returns {job: error} of those that failed, including those that needed them."""
        for _ in range(self.workers):
            threading.Thread(target=self._work, daemon=True).start()
        place = {name: number for number, name in enumerate(self.jobs)}
        errors: dict[str, str] = {}
        while self._order.is_active():
            for name in self._order.get_ready():
                failed = next((need for need in self.jobs[name].needs if need in errors), None)
                if failed is None:
                    self._ready.put((place[name], name))
                else:
                    self._ended.put((name, errors[failed]))
            name, error = self._ended.get()
            if error:
                errors[name] = error
            self._order.done(name)
        for _ in range(self.workers):
            self._ready.put((math.inf, ""))
        return errors

    def _work(self) -> None:
        while name := self._ready.get()[1]:
            try:
                error = self.jobs[name].run()
            except BaseException as caught:
                error = one_line(caught)
            self._ended.put((name, error))


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
