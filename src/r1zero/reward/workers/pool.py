"""Worker processes that can be killed: a deadline per job, results for every job, nothing lost.

One helper process (``server``) imports math-verify once and forks workers from it on request, so a worker
that was killed is replaced in milliseconds and no thread, lock or CUDA context of the caller is inherited;
the caller's main script is never imported again. Every worker has a socket of its own: no lock is shared
that a killed worker could hold. Jobs and results are JSON lines, so nothing that a worker says is executed.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

LOOK_AHEAD = 4
MAX_LINE = 1 << 20  # bytes of one result; a worker that writes more without an end of line is not to be trusted
SMALL = 8192  # bytes; only small jobs are sent ahead, so that a busy worker's socket never fills up
START_SECONDS = 60.0


@dataclass
class Job:
    """One unit of work, the seconds it may take, and the future that gets its result."""

    number: int
    line: bytes
    timeout: float
    future: Future[dict[str, Any]] = field(default_factory=Future)
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    number: int
    sock: socket.socket
    pid: int | None = None
    ready: bool = False
    buffer: bytearray = field(default_factory=bytearray)
    jobs: deque[Job] = field(default_factory=deque)
    deadline: float = float("inf")
    started: float = 0.0


class WorkerPool:
    """Runs jobs in ``workers`` processes; every future gets a dict, whatever happens to the process.

    The result is what the worker answered, or ``{"error": "timeout" | "crash", "detail": ...}``. A job whose
    worker died, or wrote anything but the result of that very job, is tried once more, because the worker may
    have been killed for something else. A worker leads a process group: what it started dies with it.
    Usable from any thread. The processes start at the first job or at ``start``.

    Args:
        workers: Number of processes.
        timeout: Seconds a job may run before its worker is killed, where the job has no limit of its own.
        memory_gib: Address space of a worker; None: no limit.
    """

    def __init__(self, workers: int, timeout: float, memory_gib: float | None = 4.0) -> None:
        self.workers = workers
        self.timeout = timeout
        self.memory_gib = memory_gib
        self.kills = 0
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque()
        self._pool: dict[int, _Worker] = {}
        self._numbers = itertools.count()
        self._job_numbers = itertools.count()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._broken = ""
        self._failed_starts = 0

    def submit(self, payload: dict[str, Any], timeout: float | None = None) -> Future[dict[str, Any]]:
        """Queue one job (JSON types only) and return its future.

        Args:
            payload: The job's kind and arguments.
            timeout: Seconds this job may run; None: the pool's.

        Raises:
            RuntimeError: The pool is closed.
        """
        number = next(self._job_numbers)
        line = json.dumps({**payload, "id": number}).encode() + b"\n"
        job = Job(number, line, self.timeout if timeout is None else timeout)
        with self._lock:
            if self._closed:
                raise RuntimeError("the worker pool is closed")
            self._start()
            self._queue.append(job)
            broken = self._broken
        if broken:
            _finish(job, {"error": "crash", "detail": broken})
        self._poke()
        return job.future

    def start(self) -> None:
        """Start the processes now, in the background, instead of at the first job."""
        with self._lock:
            if not self._closed:
                self._start()

    def pids(self) -> list[int]:
        """Process id of the helper process that owns the workers; empty before the start."""
        return [self._server.pid] if self._server else []

    def close(self) -> None:
        """Kill every process; jobs that are still open end as a crash. Safe to call twice."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._poke()
            thread.join(timeout=10)
        self._stop_server()
        for job in [*self._queue, *(job for worker in self._pool.values() for job in worker.jobs)]:
            _finish(job, {"error": "crash", "detail": "the worker pool was closed"})
        self._queue.clear()
        self._pool.clear()
        atexit.unregister(self.close)

    # The rest runs in the dispatcher thread, except _start and _poke.

    def _start(self) -> None:
        if self._thread is not None:
            return
        self._wake = socket.socketpair()
        self._wake[0].setblocking(False)
        self._wake[1].setblocking(False)
        self._start_server()
        self._thread = threading.Thread(target=self._dispatch, name="reward-workers", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _poke(self) -> None:
        if self._wake is not None:
            with contextlib.suppress(BlockingIOError, OSError):
                self._wake[1].send(b"x")

    def _start_server(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "SYMPY_GROUND_TYPES": "python",  # a C big-integer call can't be interrupted and forgets the memory limit
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OMP_NUM_THREADS": "1",
        }
        limit = "" if self.memory_gib is None else str(int(self.memory_gib * 2**30))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "r1zero.reward.workers.server", str(theirs.fileno()), limit],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self._control = ours

    def _stop_server(self) -> None:
        for worker in self._pool.values():
            worker.sock.close()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            try:
                self._server.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None

    def _spawn(self, selector: selectors.BaseSelector) -> None:
        assert self._control is not None
        ours, theirs = socket.socketpair()
        worker = _Worker(next(self._numbers), ours, deadline=time.monotonic() + START_SECONDS)
        try:
            socket.send_fds(self._control, [f"fork {worker.number}\n".encode()], [theirs.fileno()])
        finally:
            theirs.close()
        ours.setblocking(False)
        self._pool[worker.number] = worker
        selector.register(ours, selectors.EVENT_READ, worker)

    def _drop(self, worker: _Worker, selector: selectors.BaseSelector, result: dict[str, Any] | None) -> None:
        """Kill a worker; its first job gets the result, if any, the others go back to the head of the queue."""
        selector.unregister(worker.sock)
        worker.sock.close()
        del self._pool[worker.number]
        with contextlib.suppress(OSError):
            if self._control is not None:
                self._control.send(f"kill {worker.number}\n".encode())
        self.kills += 1
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts > 3 * self.workers:
                self._broken = "the worker processes can't be started; their own error stands above"
        if worker.jobs and result is not None:
            head = worker.jobs[0]
            head.deaths += result["error"] == "crash"
            if result["error"] == "timeout" or head.deaths > 1:
                _finish(worker.jobs.popleft(), result)
        with self._lock:
            self._queue.extendleft(reversed(worker.jobs))

    def _dispatch(self) -> None:
        """Run until closed. Whatever goes wrong here, no future is left open."""
        try:
            with selectors.DefaultSelector() as selector:
                assert self._wake is not None
                selector.register(self._wake[0], selectors.EVENT_READ, None)
                while not self._closed and not self._broken:
                    self._turn(selector)
        except Exception as error:
            self._broken = f"the dispatcher of the worker processes failed: {type(error).__name__}: {error}"
        if self._broken:
            with self._lock:
                open_jobs = [*(job for worker in self._pool.values() for job in worker.jobs), *self._queue]
                self._queue.clear()
            for job in open_jobs:
                _finish(job, {"error": "crash", "detail": self._broken})

    def _turn(self, selector: selectors.BaseSelector) -> None:
        try:
            while len(self._pool) < self.workers:
                self._spawn(selector)
        except OSError:
            self._restart(selector)
            return
        self._hand_out()
        wait = min(worker.deadline for worker in self._pool.values()) - time.monotonic()
        events = selector.select(None if wait == float("inf") else max(wait, 0.0))
        for event, _ in events:
            if event.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake[0].recv(4096)  # type: ignore[index]
            elif event.data.number in self._pool and (why := self._receive(event.data, selector)):
                self._drop(event.data, selector, {"error": "crash", "detail": why})
                if self._server is not None and self._server.poll() is not None:
                    self._restart(selector)
        now = time.monotonic()
        for worker in [worker for worker in self._pool.values() if worker.deadline <= now]:
            limit = worker.jobs[0].timeout if worker.jobs else START_SECONDS
            late = {"error": "timeout", "detail": f"no verdict within {limit:g} s", "seconds": limit}
            self._drop(worker, selector, late)

    def _restart(self, selector: selectors.BaseSelector) -> None:
        """Start the helper process again after it died; what the workers had started is killed here, in its place."""
        for worker in list(self._pool.values()):
            if worker.pid is not None:
                with contextlib.suppress(OSError):
                    os.killpg(worker.pid, signal.SIGKILL)
            self._drop(worker, selector, {"error": "crash", "detail": "the worker processes died"})
        self._stop_server()
        if not self._closed and not self._broken:
            self._start_server()

    def _hand_out(self) -> None:
        for depth in range(1, LOOK_AHEAD + 1):
            for worker in list(self._pool.values()):
                if worker.ready and len(worker.jobs) < depth:
                    with self._lock:
                        if not self._queue:
                            return
                        if worker.jobs and len(self._queue[0].line) > SMALL:
                            continue
                        job = self._queue.popleft()
                    worker.jobs.append(job)
                    if len(worker.jobs) == 1:
                        worker.started = time.monotonic()
                        worker.deadline = worker.started + job.timeout
                    self._send(worker, job.line)

    def _send(self, worker: _Worker, line: bytes) -> None:
        """Send one job; a dead worker shows as an end of file later, a stuck one runs into its deadline."""
        worker.sock.settimeout(self.timeout)
        try:
            worker.sock.sendall(line)
        except TimeoutError:
            worker.deadline = 0.0
        except OSError:
            pass
        finally:
            worker.sock.setblocking(False)

    def _receive(self, worker: _Worker, selector: selectors.BaseSelector) -> str:
        """Read what a worker wrote; the reason, in words, when it must go."""
        try:
            data = worker.sock.recv(1 << 16)
        except BlockingIOError:
            return ""
        except OSError:
            data = b""
        if not data:
            return "the worker process died"
        worker.buffer += data
        while (end := worker.buffer.find(b"\n")) >= 0:
            line = bytes(worker.buffer[:end])
            del worker.buffer[: end + 1]
            now = time.monotonic()
            if not worker.ready:
                if not line.startswith(b"ready ") or not line[6:].isdigit():
                    return "the worker process did not start as it should"
                worker.pid, worker.ready = int(line[6:]), True
                self._failed_starts = 0
            else:
                result = _result(line, worker.jobs[0].number if worker.jobs else None)
                if result is None:
                    return f"the worker wrote something that is not the result of its job: {line[:80]!r}"
                _finish(worker.jobs.popleft(), {**result, "seconds": now - worker.started})
                if result.get("detail") == "MemoryError":  # what is left of that heap is not to be trusted
                    self._drop(worker, selector, None)
                    return ""
            worker.started = now
            worker.deadline = now + worker.jobs[0].timeout if worker.jobs else float("inf")
        return "the worker wrote a line without an end" if len(worker.buffer) > MAX_LINE else ""


def _result(line: bytes, number: int | None) -> dict[str, Any] | None:
    """The result that a line holds for the job of this number; None for anything else."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or number is None or answer.get("id") != number or "result" not in answer:
        return None
    result = answer["result"]
    if not isinstance(result, dict) or result.get("error", "crash") not in ("crash", "timeout"):
        return None
    return result


def _finish(job: Job, result: dict[str, Any]) -> None:
    if not job.future.done():
        job.future.set_result(result)
