"""An engine that lives in one thread, beside a learner in another (rollout.async=1 in one process)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import torch

from r1zero.batch import Completion
from r1zero.rollout.engine import Engine, EngineAround, Sampling

T = TypeVar("T")

Job = tuple[Callable[[], Any], Future[Any], Any]
"""Work, where its result goes, and the event that the caller's stream records before it (None on a CPU)."""


class EngineThread(EngineAround):
    """Starts an engine in a thread of its own and does everything with it there, until it is closed.

    CUDA's current stream belongs to a thread. An engine that met a new thread each step would copy tokens on the stream
    of the first and decode on the learner's (vLLM's runner remembers the first). Here the thread has one stream: what
    the caller has launched before a call is waited for on it, and a call is over when the stream has done its work.

    Args:
        start: makes the engine.
        device: where it works.

    Raises:
        UserError: the engine can't start.
    """

    def __init__(self, start: Callable[[], Engine], device: torch.device) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._cuda = device.type == "cuda"
        self._thread = Thread(target=self._work, args=(device,), name="engine", daemon=True)
        self._thread.start()
        try:
            super().__init__(self._do(start))
        except BaseException:
            self._jobs.put(None)
            raise

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """See :meth:`r1zero.rollout.engine.Engine.generate`."""
        return self._do(lambda: self.engine.generate(prompts, sampling, seed))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """See :meth:`r1zero.rollout.engine.Engine.load_weights`; the tensors are read in the engine's thread."""
        self._do(lambda: self.engine.load_weights(weights, version))

    def sleep(self) -> None:
        """See :meth:`r1zero.rollout.engine.Engine.sleep`."""
        self._do(self.engine.sleep)

    def wake(self) -> None:
        """See :meth:`r1zero.rollout.engine.Engine.wake`."""
        self._do(self.engine.wake)

    def close(self) -> None:
        """See :meth:`r1zero.rollout.engine.Engine.close`; the thread ends."""
        if self._thread.is_alive():
            self._do(self.engine.close)
            self._jobs.put(None)
            self._thread.join()

    @property
    def on_group(self) -> Any:
        """Told of finished prompts in the engine's thread, where the engine tells of them."""
        return self.engine.on_group  # type: ignore[attr-defined]

    @on_group.setter
    def on_group(self, value: Any) -> None:
        self.engine.on_group = value  # type: ignore[attr-defined]

    def _do(self, work: Callable[[], T]) -> T:
        """Have the thread do something, and wait. Interrupted here, it is stopped there at its next step."""
        if not self._thread.is_alive():
            return work()  # the engine is closed and says so
        done: Future[T] = Future()
        self._jobs.put((work, done, torch.cuda.current_stream().record_event() if self._cuda else None))
        try:
            return done.result()
        except BaseException:
            if not done.done():
                before, self.on_step = self.on_step, _stop
                wait([done])
                self.on_step = before
            raise

    def _work(self, device: torch.device) -> None:
        if self._cuda:
            torch.cuda.set_device(device)
            torch.cuda.set_stream(torch.cuda.Stream(device))
        while (job := self._jobs.get()) is not None:
            work, done, before = job
            try:
                if self._cuda:  # asked each time: vLLM gives the thread another stream when it starts
                    torch.cuda.current_stream().wait_event(before)
                result = work()
                if self._cuda:
                    torch.cuda.current_stream().synchronize()
                done.set_result(result)
            except BaseException as error:
                done.set_exception(error)
            del job, work, done  # an error's frames hold the model


def _stop() -> None:
    raise RuntimeError("the caller was interrupted")
