"""Ray for one run: started here on the loopback address, or found at an address; left without a trace."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from r1zero.errors import UserError
from r1zero.launch import compat
from r1zero.launch.run_folder import one_line

MISSING = "Ray is not installed, which rollout=ray and reward.pool=ray need: pip install '.[ray]'"
SETTING = "rollout.ray.address"

PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Ray reports its use to its makers unless this is set."""
LOCAL = {
    "RAY_AUTH_MODE": "token",
    # Despite its name, what binds Ray to 127.0.0.1 on every system; by default it listens on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other programs' memory must not kill a sampler
}
TOKEN = "RAY_AUTH_TOKEN"
PREFIX = "r1zero-ray-"
SHARED = Path("/dev/shm")
GIB = 2**30
LEAST_STORE = 128 * 2**20
"""Bytes of the object store beside the weights: responses, and what Ray itself asks for."""
LONGEST_FOLDER = 40
"""Characters of Ray's folder; names of sockets in it may have 107 in all."""


def import_ray(local: bool = False) -> Any:
    """Ray, without reports to its makers. Raises ``UserError`` where it is not installed.

    Args:
        local: a Ray of our own will be started or joined; its settings are read while it is imported.
    """
    for name, value in PRIVATE.items():
        os.environ.setdefault(name, value)
    if local:
        os.environ.update(LOCAL)
    early = "ray" in sys.modules
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError(MISSING) from error
    if local and early:  # somebody has imported it without these settings: let it read them again
        compat.reread_settings(ray)
    return ray


class Cluster:
    """This process's connection to Ray; :meth:`close` ends what :func:`start` began.

    Where the process is connected already, the connection is used and left as it is.

    Attributes:
        address: what other ranks connect to.
        folder: of a Ray that was started here.
        watch: ends what of it would outlive this process.
    """

    def __init__(
        self, address: str, *, folder: Path | None = None, lock: Any = None, watch: Any = None, ours: bool = True
    ) -> None:
        self.address, self.folder, self._lock, self._watch, self._ours = address, folder, lock, watch, ours

    @property
    def local(self) -> bool:
        """Whether Ray was started by this process and ends with it."""
        return self.folder is not None

    def close(self) -> None:
        """Disconnect, end our own Ray and remove its folder; safe to call twice."""
        if self._ours and import_ray().is_initialized():
            with quiet(), kept_signals():
                import_ray().shutdown()
        self._ours = False
        if self.folder is not None:
            self._watch.kill()
            self._watch.communicate()
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.close()
            self.folder = None


def start(cpus: float, gpus: float, store: int) -> Cluster:
    """A Ray of our own on this machine, reached by nobody else: 127.0.0.1 and a secret token.

    The kernel ends its processes with the thread that calls this.

    Args:
        cpus: what actors may reserve in all; a number for Ray to count with, no limit on cores.
        gpus: GPUs among ``CUDA_VISIBLE_DEVICES`` that actors may reserve.
        store: bytes of shared memory for weights.

    Raises:
        UserError: shared memory does not suffice, or Ray does not start.
    """
    check_shared_memory(store)
    if (ray := import_ray(local=True)).is_initialized():
        return Cluster(ray.get_runtime_context().gcs_address, ours=False)
    os.environ.setdefault(TOKEN, secrets.token_hex(24))
    folder, lock = own_folder()
    try:
        with quiet(), kept_signals(), compat.apart({"TMPDIR": str(folder)}):  # engines leave files there
            context = ray.init(
                address="local",  # whatever RAY_ADDRESS says
                num_cpus=cpus,
                num_gpus=gpus,
                object_store_memory=store,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                namespace=f"r1zero-{os.getpid()}",
                _temp_dir=str(folder),
            )
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"rollout=ray: Ray can't start on this machine ({one_line(error)[:300]})") from error
    return Cluster(context.address_info["gcs_address"], folder=folder, lock=lock, watch=watch_agents())


def watch_agents() -> subprocess.Popen[bytes]:
    """Kill Ray's agents when this process is gone; they would try for a minute to report the end of their parent.

    A shell that waits for the end of its input, which this process alone holds open.
    """
    import psutil

    parents = [child for child in psutil.Process().children() if child.name() == "raylet"]
    agents = [str(child.pid) for parent in parents for child in parent.children(recursive=True)]
    command = ["sh", "-c", 'read end; kill -9 "$@" 2>/dev/null', "sh", *agents]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0)


def connect(address: str, wait_s: float, namespace: str | None = None, setting: str = SETTING) -> Cluster:
    """A Ray that runs already.

    Args:
        address: auto, host:port or ray://host:port.
        wait_s: seconds to wait for an answer.
        namespace: names of actors count in it alone.
        setting: where the address comes from.

    Raises:
        UserError: nobody answers, the token is wrong, or it is not a Ray of this version.
    """
    if (ray := import_ray()).is_initialized():
        return Cluster(ray.get_runtime_context().gcs_address, ours=False)
    where = knock(address, wait_s, setting)
    problem: Exception | None = None
    try:
        with quiet(), kept_signals(), deadline(wait_s):
            if "://" not in where:
                with mute():
                    compat.ask_ray(ray, where)
            ray.init(address=where, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        problem = error
    if problem is None:
        return Cluster(where)
    with contextlib.suppress(Exception):
        ray.shutdown()
    if "auth" in f"{type(problem).__name__} {problem}".lower():
        raise UserError(
            f"{setting}={address}: the cluster wants another token: set RAY_AUTH_MODE=token and {TOKEN} to "
            "the value it was started with"
        ) from problem
    raise UserError(f"{setting}={address}: no connection to Ray ({one_line(problem)[:300]})") from problem


def knock(address: str, wait_s: float, setting: str = SETTING) -> str:
    """Where Ray listens, found out before it is asked: it would try for minutes.

    Raises:
        UserError: Ray is not installed, the address is none, or nobody answers there.
    """
    if find_spec("ray") is None:
        raise UserError(MISSING)
    given = f"{setting}={address}"
    if address == "auto":
        import_ray()
        address = os.environ.get("RAY_ADDRESS") or compat.address_of_ray() or ""
        if not address:
            raise UserError(f"{given}: no Ray was started on this machine: start it with `ray start --head`")
        given = f"{given} ({address})"
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise UserError(f"{given}: write auto, host:port or ray://host:port")
    try:
        socket.create_connection((host, port), timeout=min(wait_s, 5.0)).close()
    except OSError as error:
        raise UserError(
            f"{given}: nobody answers there ({error.strerror or error}): start Ray with `ray start --head`"
        ) from error
    return address


def check_shared_memory(store: int) -> None:
    """Weights travel through shared memory. Raises ``UserError`` where the machine has too little of it."""
    if not SHARED.is_dir():
        return
    free = shutil.disk_usage(SHARED).free
    if free < store:
        raise UserError(
            f"rollout=ray wants {store / GIB:.2f} GiB of shared memory for weights and {SHARED} has {free / GIB:.2f} "
            "GiB free: give the container more (docker run --shm-size), or free some"
        )


def own_folder() -> tuple[Path, Any]:
    """A folder for Ray's logs and sockets and the lock that says it is in use; those left by killed runs go."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST_FOLDER - len(PREFIX) - 8:
        base = Path("/tmp")
    for old in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (old / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    held: Any = (folder / "lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    return folder, held


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ray's remarks about itself stay off the terminal; a lost process is a paragraph there and a line of ours here."""
    logger = logging.getLogger("ray")
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    with compat.no_messages_of_lost_processes():
        yield


@contextlib.contextmanager
def mute() -> Iterator[None]:
    """Ray's C++ side writes to the terminal where it has no log file yet."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def kept_signals() -> Iterator[None]:
    """Ray puts a handler of SIGTERM in place of the run's."""
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in the main thread after as long: a connection that neither stands nor fails."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: Any) -> None:
        raise TimeoutError(f"no answer for {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    rest = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *rest)
