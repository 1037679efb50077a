"""A rollout server: one engine behind a narrow HTTP interface.

Why not vLLM's own server: it draws by one seed a request instead of one a call, batches requests as they
happen to arrive, adds a model's EOS ids, and takes new weights only through its development mode, which lets
whoever reaches the port call any method of a worker by name (``/collective_rpc``), unpickles device handles,
and has no transfer at all for CPUs. Here the very engine of ``rollout=vllm`` runs in a process of its own: the
same seeds give the same responses, the cures for tied heads and stale caches are the same code, and the port
offers four things: say what you are, generate from token ids, take weights from a folder below a given root, or
from a transfer group of the trainer. Nothing is unpickled, no name of a method or module travels.

The engine works in the main thread, one job at a time; HTTP threads take jobs in, say how far they are, and
hand results out. A job nobody asks after for ``LEASE`` seconds is dropped: its trainer is gone.
"""

from __future__ import annotations

import hmac
import json
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from r1zero.errors import SyncError, UserError
from r1zero.rollout.served.client import PROTOCOL, Cancelled, NotSynced
from r1zero.rollout.served.wire import decode_prompts, decode_sampling, encode_groups

log = logging.getLogger("r1zero")

LEASE = 20.0
"""Seconds without a question after which a job is dropped."""
LARGEST = 2**28
"""Bytes of the largest request."""
LOCAL = ("127.0.0.1", "localhost", "::1")
TRANSFER = ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update")


class Job:
    """Work for the engine, and what came of it: an HTTP status and a body."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        self.name, self.work, self.done = secrets.token_hex(12), work, threading.Event()
        self.status, self.body, self.asked, self.dropped = 0, b"", time.monotonic(), False

    def unwanted(self) -> bool:
        """Whether it was dropped, or nobody has asked after it for too long."""
        return self.dropped or time.monotonic() - self.asked > LEASE

    def end(self, status: int, body: bytes) -> None:
        """Hold the result ready."""
        self.status, self.body = status, body
        self.done.set()


class EngineServer:
    """Serves an engine until :meth:`stop`.

    Args:
        engine: has ``generate``, ``load_folder``, ``version`` and calls ``on_step`` as it goes on.
        about: what ``/health`` tells of the model.
        token: expected as ``Authorization: Bearer``; None: none is asked for.
        root: weights are taken from folders below this one alone.
        address: host and port to listen at; port 0 is any free one.
    """

    def __init__(
        self, engine: Any, about: dict[str, Any], *, token: str | None, root: Path, address: tuple[str, int]
    ) -> None:
        self.engine, self.about, self.token, self.root = engine, about, token, root.resolve()
        self.boot = secrets.token_hex(8)
        self.push: str | None = None
        self.steps = 0
        self._jobs: dict[str, Job] = {}
        self._queue: queue.Queue[Job] = queue.Queue()
        self._current: Job | None = None
        self._stopping = threading.Event()
        self._broken = False
        engine.on_step = self._step
        server = self

        class Bound(Handler):
            owner = server

        Listener.address_family = _family(address[0])
        self._http = Listener(address, Bound)

    @property
    def port(self) -> int:
        """Port that is listened at."""
        return self._http.server_address[1]

    def run(self) -> bool:
        """Work off jobs; returns whether the engine is still whole (False: it failed and must be started anew)."""
        threading.Thread(target=self._http.serve_forever, daemon=True, name="http").start()
        try:
            while not self._stopping.is_set() and not self._broken:
                try:
                    job = self._queue.get(timeout=0.2)
                except queue.Empty:
                    self._forget()
                    continue
                self._current = job
                self._work(job)
                self._current = None
            deadline = time.monotonic() + LEASE
            while self._broken and self._untaken() and time.monotonic() < deadline:
                time.sleep(0.05)  # the trainer reads what went wrong
        finally:
            self._http.shutdown()
            self._http.server_close()
        return not self._broken

    def _untaken(self) -> bool:
        """Whether somebody is still to be told of a job that has ended."""
        return any(job.done.is_set() and not job.unwanted() for job in list(self._jobs.values()))

    def stop(self) -> None:
        """End :meth:`run` soon; what is being generated is given up."""
        self._stopping.set()

    def submit(self, kind: str, request: dict[str, Any]) -> Job:
        """Queue a job. Raises ``UserError`` for one that can't be read."""
        if kind == "generate":
            prompts, sampling = decode_prompts(request.get("prompts")), decode_sampling(request.get("sampling"))
            seed = request.get("seed")
            if type(seed) is not int:
                raise UserError("the request's seed is no number")
            job = Job(lambda: self._generate(prompts, sampling, seed, request.get("version"), request.get("push")))
        elif kind == "load":
            job = Job(lambda: self._load(request))
        elif kind in TRANSFER and hasattr(self.engine, "transfer"):
            job = Job(lambda: self._transfer(kind, request))
        else:
            raise UserError(f"there is no {kind} here")
        self._jobs[job.name] = job
        self._queue.put(job)
        return job

    def find(self, name: str) -> Job | None:
        """The job of that name, which counts as asked after."""
        job = self._jobs.get(name)
        if job is not None:
            job.asked = time.monotonic()
        return job

    def drop(self, name: str) -> None:
        """Give a job up, done or not."""
        job = self._jobs.pop(name, None)
        if job is not None:
            job.dropped = True

    def health(self) -> dict[str, Any]:
        """What is told of this server."""
        state = {"protocol": PROTOCOL, "boot": self.boot, "steps": self.steps, "busy": self._current is not None}
        return {**self.about, **state, "version": self.engine.version, "push": self.push, "weights_dir": str(self.root)}

    def _step(self) -> None:
        self.steps += 1
        if self._stopping.is_set() or (self._current is not None and self._current.unwanted()):
            raise Cancelled

    def _work(self, job: Job) -> None:
        if job.unwanted():
            self.drop(job.name)
            return
        try:
            job.end(200, job.work())
        except Cancelled:
            self.drop(job.name)
        except NotSynced as error:
            job.end(409, _error(error))
        except SyncError as error:
            job.end(422, _error(error))
        except UserError as error:
            job.end(400, _error(error))
        except Exception as error:
            log.exception("the engine failed")
            self._broken = True
            job.end(500, _error(error))

    def _generate(self, prompts: Any, sampling: Any, seed: int, version: Any, push: Any) -> bytes:
        if (self.engine.version, self.push) != (version, push):
            raise NotSynced(f"weights of version {self.engine.version} are served here, not those of version {version}")
        return encode_groups(self.engine.generate(prompts, sampling, seed))

    def _load(self, request: dict[str, Any]) -> bytes:
        folder, version, push = (request.get(key) for key in ("folder", "version", "push"))
        if not (isinstance(folder, str) and type(version) is int and isinstance(push, str)):
            raise UserError("the request names no folder, version and push")
        if self.push == push and self.engine.version == version:
            return b"{}"  # another rank was faster
        path = Path(folder).resolve()
        if self.root not in path.parents:
            raise UserError(f"weights are taken from folders below {self.root} alone: set rollout.weights_dir to it")
        if not path.is_dir():
            raise UserError(
                f"the server does not see the folder of the weights, {path}: rollout.weights_dir must name one both see"
            )
        self.push = None
        self.engine.load_folder(path, version)
        self.push = push
        return b"{}"

    def _transfer(self, step: str, request: dict[str, Any]) -> bytes:
        self.push = None
        self.engine.transfer(step, request)
        if step == "finish_weight_update":
            self.push = str(request.get("push"))
        return b"{}"

    def _forget(self) -> None:
        for job in list(self._jobs.values()):
            if job.unwanted():
                self.drop(job.name)


class Listener(ThreadingHTTPServer):
    """Threads that do not hold up the end of the process; the same port again after a restart."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False


class Handler(BaseHTTPRequestHandler):
    """Checks who asks, reads and writes; knows nothing of engines."""

    owner: EngineServer
    timeout = 60
    server_version, sys_version = "r1zero", ""

    def do_GET(self) -> None:
        """``/health`` and ``/jobs/<name>?wait=<seconds>``."""
        if not self._admitted():
            return
        path, _, query = self.path.partition("?")
        if path == "/health":
            self._json(200, self.owner.health())
            return
        job = self.owner.find(path.removeprefix("/jobs/"))
        if job is None:
            self._json(404, {"error": "no such job"})
            return
        if job.done.wait(_seconds(query)):
            self._answer(job.status, job.body)
            self.owner.drop(job.name)
        else:
            self._json(202, {"steps": self.owner.steps})

    def do_POST(self) -> None:
        """A job; the answer names it."""
        if not self._admitted():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST:
            self._json(400, {"error": "the request is too large or does not say how long it is"})
            return
        try:
            request = json.loads(self.rfile.read(int(length)))
            if not isinstance(request, dict):
                raise UserError("the request is no JSON object")
            job = self.owner.submit(self.path.strip("/"), request)
        except (ValueError, RecursionError):
            self._json(400, {"error": "the request is no JSON"})
        except UserError as error:
            self._json(400, {"error": str(error)})
        else:
            self._json(202, {"job": job.name})

    def do_DELETE(self) -> None:
        """Give a job up."""
        if self._admitted():
            self.owner.drop(self.path.removeprefix("/jobs/"))
            self._json(200, {})

    def _admitted(self) -> bool:
        """The right token; without one, no browser's page may ask: by type of content and name of the host."""
        token = self.owner.token
        if token is not None:
            given = self.headers.get("Authorization", "")
            if hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token}".encode()):
                return True
            self._json(401, {"error": "wrong or missing token"})
            return False
        host = self.headers.get("Host", "").rsplit(":", 1)[0].strip("[]")
        if host in LOCAL and self.headers.get("Content-Type") == "application/json":
            return True
        self._json(403, {"error": "refused"})
        return False

    def _json(self, status: int, content: dict[str, Any]) -> None:
        self._answer(status, json.dumps(content).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests come every other second."""


def _seconds(query: str) -> float:
    try:
        return min(max(float(query.removeprefix("wait=")), 0.0), 10.0)
    except ValueError:
        return 0.0


def _error(error: Exception) -> bytes:
    text = " ".join(str(error).split()) or type(error).__name__
    return json.dumps({"error": text[:2000]}).encode()


def _family(host: str) -> Any:
    import socket

    return socket.AF_INET6 if ":" in host else socket.AF_INET
