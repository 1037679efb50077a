"""reward.pool=ray: worker processes that can be killed, on the machines of a Ray cluster.

For rewards that need other machines: code to execute, a library that is there alone. Each machine has an actor with a
pool of its own, the very one of ``reward.pool=local``, so deadlines, limits and verdicts are the same.
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future
from typing import Any

from r1zero.errors import UserError
from r1zero.launch.cluster import connect, import_ray

WAIT = 60.0
"""Seconds to wait for the cluster and for places on it."""
CALLS = 10000
"""Jobs that a machine holds at a time."""
ATTEMPTS = 3
"""Machines that may be lost over a job before it counts as a crash."""


class Machine:
    """One machine's share, an actor: hands jobs to a local pool."""

    def __init__(self, workers: int, timeout: float, memory_gib: float | None) -> None:
        from r1zero.reward.workers.pool import WorkerPool

        self._pool = WorkerPool(workers, timeout, memory_gib)
        self._pool.start()

    def run(self, payload: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """See :meth:`r1zero.reward.workers.pool.WorkerPool.submit`."""
        return self._pool.submit(payload, timeout).result()

    def close(self) -> None:
        """Kill the worker processes."""
        self._pool.close()


class RayPool:
    """Keeps the methods of :class:`r1zero.reward.workers.pool.WorkerPool` over several machines.

    Jobs go round; one whose machine is lost goes to another. An actor that dies is started again by Ray, elsewhere if
    need be.

    Args:
        address: of the cluster.
        machines: actors, on different machines where there are as many.
        workers: processes on each.
        timeout: seconds a job may run.
        memory_gib: address space of a process.

    Raises:
        UserError: nobody answers at the address, or there is no place.
    """

    def __init__(self, address: str, machines: int, workers: int, timeout: float, memory_gib: float | None) -> None:
        self.workers, self.timeout = workers * machines, timeout
        ray = import_ray()
        self._cluster = connect(address, WAIT, setting="reward.address")
        actor = ray.remote(Machine)
        options: dict[str, Any] = dict(num_cpus=1, max_restarts=-1, max_concurrency=CALLS, scheduling_strategy="SPREAD")
        self._actors = [actor.options(**options).remote(workers, timeout, memory_gib) for _ in range(machines)]
        self._turn = itertools.count()
        self._closed = False
        try:
            ray.get([a.__ray_ready__.remote() for a in self._actors], timeout=WAIT)
        except ray.exceptions.GetTimeoutError as error:
            self.close()
            raise UserError(
                f"reward.machines={machines}: the cluster has no place for as many within {WAIT:g} s (a CPU each)"
            ) from error

    def submit(self, payload: dict[str, Any], timeout: float | None = None) -> Future[dict[str, Any]]:
        """Queue one job; see :meth:`r1zero.reward.workers.pool.WorkerPool.submit`."""
        if self._closed:
            raise RuntimeError("the worker pool is closed")
        result: Future[dict[str, Any]] = Future()
        self._send(payload, timeout, result, 1)
        return result

    def _send(self, payload: dict[str, Any], timeout: float | None, result: Future[dict[str, Any]], nth: int) -> None:
        actor = self._actors[next(self._turn) % len(self._actors)]

        def over(answer: Future[dict[str, Any]]) -> None:
            error = answer.exception()
            if error is None:
                result.set_result(answer.result())
            elif nth == ATTEMPTS or self._closed:
                lines = str(error).splitlines()
                result.set_result({"error": "crash", "detail": lines[0] if lines else type(error).__name__})
            else:  # not in the thread that brings Ray's answers
                again = threading.Timer(0.5 * nth, self._send, (payload, timeout, result, nth + 1))
                again.daemon = True
                again.start()

        actor.run.remote(payload, timeout).future().add_done_callback(over)

    def start(self) -> None:
        """Nothing: the actors have started."""

    def close(self) -> None:
        """End the actors and their processes, and leave the cluster if nobody else here uses it; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        ray = import_ray()
        if ray.is_initialized():
            ray.wait([a.close.remote() for a in self._actors], num_returns=len(self._actors), timeout=5)
            for actor in self._actors:
                ray.kill(actor)
        self._cluster.close()
