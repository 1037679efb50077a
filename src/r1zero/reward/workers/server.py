"""The helper process of ``pool``: imports math-verify once, forks workers, kills them, dies with its parent.

Run as ``python -m r1zero.reward.workers.server FD LIMIT``; FD is a socket that carries "fork NUMBER" with the
worker's socket, and "kill NUMBER". End of file on it, however the parent ended, kills every worker.
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


def main() -> None:
    """Serve fork and kill requests until the parent is gone."""
    descriptor, limit = int(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
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
    finally:
        for pid in children.values():
            _kill(pid)


def _fork(descriptor: int, inherited: list[socket.socket], limit: int | None) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    code = 1
    try:
        for sock in inherited:
            sock.close()
        _die_with(server)
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
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
