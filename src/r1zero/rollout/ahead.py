"""Sampling one rollout step ahead: the engine works on step k + 1 while the learner works on step k."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from threading import Thread
from typing import Any

from r1zero.batch import Completion
from r1zero.launch.run_folder import one_line
from r1zero.rollout import ranks

log = logging.getLogger("r1zero")


@dataclass
class Sampled:
    """The responses of one rollout step, and the policy version that gave them."""

    step: int
    version: int
    groups: list[list[Completion]]


class Ahead:
    """At most one rollout under way in a thread of its own.

    The engine draws from the process's random state, which nothing else does meanwhile: dropout is off,
    minibatches are shuffled by a generator of their own, and recomputed activations restore no state.
    """

    def __init__(self) -> None:
        self._work: Future[Sampled] | None = None
        self._thread: Thread | None = None

    def start(self, sample: Callable[[], Sampled]) -> None:
        """Begin; the rollout before must have been taken."""
        assert self._work is None
        work: Future[Sampled] = Future()

        def run() -> None:
            try:
                work.set_result(sample())
            except BaseException as error:
                work.set_exception(error)

        self._work = work
        self._thread = Thread(target=run, name="rollout-ahead", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until the engine is free; the result stays to be taken, an error too."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def take(self, step: int) -> Sampled | None:
        """The rollout of this step, or None where it was not begun or an engine failed: sample it now, then.

        All ranks have it or none: to sample now, weights are loaded, which all ranks do together.
        """
        self.settle()
        work, self._work = self._work, None
        sampled: Sampled | None = None
        try:
            sampled = work.result() if work is not None else None
        except Exception as error:
            log.warning("sampling ahead failed (%s): the step is sampled again", one_line(error))
            log.info("what the engine said:\n%s", traceback.format_exc())
        there = sampled is not None and sampled.step == step
        return sampled if ranks.everywhere(there) else None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to train on the very responses that wait here, on every rank; a collective."""
        self.settle()
        waiting = self._work is not None and self._work.exception() is None
        own = asdict(self._work.result()) if waiting and self._work is not None else {}
        states = ranks.of_all(own)
        return states[0] if len(states) == 1 else {"ranks": states}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave; the responses of another number of ranks are sampled anew."""
        self._work = None
        states = state.get("ranks", [state])
        if len(states) != ranks.size():
            log.warning("the checkpoint holds waiting responses of %d ranks: they are sampled again", len(states))
            return
        if own := states[ranks.rank()]:
            groups = [[Completion(**completion) for completion in group] for group in own["groups"]]
            self._work = Future()
            self._work.set_result(Sampled(own["step"], own["version"], groups))
