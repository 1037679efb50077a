"""The helper process of ``pool``: imports math-verify once, forks workers, kills them, dies with its parent.

Run as ``python -m r1zero.reward.workers.server FD LIMIT``; FD is a socket that carries "fork NUMBER" with the
worker's socket, and "kill NUMBER". End of file on it, however the parent ended, kills every worker.

A worker leads a process group, which is killed with it. What left that group (``setsid``) becomes a child of
this process when its own parent ends (on Linux), and is killed with the next worker that is, or at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from r1zero.launch import signals

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Serve fork and kill requests until the parent is gone."""
    descriptor, limit = int(sys.argv[1]), sys.argv[2]
    signals.ignore()  # the parent decides
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=descriptor)
    from r1zero.reward.workers import worker

    worker.preload()
    gc.collect()
    gc.freeze()
    children: dict[int, int] = {}
    pending = b""
    descriptors: list[int] = []
    try:
        while True:
            data, fds, _, _ = socket.recv_fds(control, 4096, 16)
            if not data:
                return
            descriptors += fds
            pending += data
            while b"\n" in pending:
                line, pending = pending.split(b"\n", 1)
                action, number = line.decode().split()
                if action == "fork":
                    children[int(number)] = _fork(descriptors.pop(0), [control], int(limit) if limit else None)
                elif int(number) in children:
                    _kill(children.pop(int(number)))
                    _kill_strays(set(children.values()))
    finally:
        for pid in children.values():
            _kill(pid)
        _kill_strays(set())


def _fork(descriptor: int, inherited: list[socket.socket], limit: int | None) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        with contextlib.suppress(OSError):  # the worker does the same: whoever comes first
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        for sock in inherited:
            sock.close()
        _die_with(server)
        os.setpgid(0, 0)
        if limit is not None:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        from r1zero.reward.workers import worker

        worker.serve(socket.socket(fileno=descriptor))
        code = 0
    finally:
        os._exit(code)


def _die_with(server: int) -> None:
    """Ask Linux to kill this worker when the server dies, even by SIGKILL."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _kill(pid: int) -> None:
    """Kill a worker and its process group; the group first, while its number can't belong to anybody else."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _kill_strays(workers: set[int]) -> None:
    """Kill what workers that are gone have left behind, and what that leaves behind, until nothing is found."""
    while strays := [pid for pid in _own_children() if pid not in workers]:
        for pid in strays:
            _kill(pid)


def _own_children() -> list[int]:
    """Process ids of this process's children; none where the system has no /proc."""
    found, own = [], str(os.getpid())
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            if file.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1] == own:
                found.append(int(file.parent.name))
    return found


if __name__ == "__main__":
    main()
