"""Stops a run at one exact operation on a file: ``python write_points.py train.py-arguments``.

One process composes the settings and imports everything, then runs the same command in a fork for each line of its
standard input: {"stop": n, "when": "before" | "half" | "after", "fault": "kill" or a name of errno, "out": file}. An
operation is what the project's own code does to a file of the run folder: open it to write, write, flush, rename,
remove, make a folder. The answer is {"code", "points"}: operations so far, each as "write metrics.tmp".
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forkserver import preload, run_to_the_end

ROOT = Path(__file__).resolve().parents[1]
LOGS = ("train.log",)
"""Files that may lose their end: nobody goes on from them."""


LARGE = 65536
"""Bytes of a piece of a checkpoint in whose middle a run is stopped."""


class Points:
    """Counts the operations below a folder and stops at one of them."""

    def __init__(self, folder: Path, stop: int, when: str, fault: str, told: Any) -> None:
        self.folder, self.stop, self.when, self.fault, self.told = str(folder.resolve()), stop, when, fault, told
        self.count, self.last = 0, ""

    def below(self, path: Any) -> str:
        """The path inside the folder; nothing where it lies elsewhere, or is a log."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return ""
        full = os.path.abspath(os.fspath(path))
        inside = os.path.relpath(full, self.folder) if full.startswith(self.folder + "/") else ""
        return "" if inside in LOGS else inside

    def strike(self) -> None:
        """Kill the process, or fail as the system would."""
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.fault)
        raise OSError(number, os.strerror(number))

    def at(
        self, name: str, path: Any, action: Callable[[], Any], half: Callable[[], Any] | None = None, size: int = 0
    ) -> Any:
        """Do an operation, or stop at it."""
        inside = self.below(path)
        if not inside:
            return action()
        point = f"{name} {inside}"
        if point != self.last:  # a checkpoint is written in a thousand pieces: one point
            self.count, self.last = self.count + 1, point
            os.write(self.told, f"{point}\n".encode())
        if self.count != self.stop or (self.when == "half" and inside.startswith("checkpoints/") and size < LARGE):
            return action()
        if self.when == "half" and half is not None:
            half()
        if self.when == "after":
            action()
        return self.strike()

    def install(self) -> None:
        """Put the hooks in."""
        plain = builtins.open

        def watched_open(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            if not set(mode) & set("wax+") or not self.below(file):
                return plain(file, mode, *arguments, **keywords)
            made = self.at("open", file, lambda: plain(file, mode, *arguments, **keywords))
            return Watched(made, file, self)

        builtins.open = io.open = watched_open  # type: ignore[assignment]
        for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **keywords: Any) -> Any:
            if "dir_fd" in keywords and keywords["dir_fd"] is not None:  # of shutil.rmtree
                where = os.path.join(os.readlink(f"/proc/self/fd/{keywords['dir_fd']}"), os.fspath(path))
            else:
                where = path
            return self.at(name, where, lambda: plain(path, *arguments, **keywords))

        return call


class Watched:
    """A file whose every write is a point."""

    def __init__(self, file: Any, path: Any, points: Points) -> None:
        self._file, self._path, self._points = file, path, points

    def write(self, data: Any) -> Any:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        def whole() -> Any:
            count = self._file.write(data)
            if self._points.count == self._points.stop:
                self._file.flush()
            return count

        return self._points.at("write", self._path, whole, half, len(data))

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def serve(work: Callable[..., Any]) -> Callable[..., Any]:
    """In place of a function that the command calls: a fork goes on with it for every request."""

    def loop(first: Any, *more: Any) -> Any:
        answer = os.fdopen(os.dup(1), "w", buffering=1)
        print("{}", file=answer)
        run_dir = Path("run").resolve()
        for line in iter(sys.stdin.readline, ""):
            request = json.loads(line)
            told, tell = os.pipe()
            pid = os.fork()
            if pid == 0:
                answer.close()
                os.close(told)
                for number, end in ((1, ".out"), (2, ".err")):
                    os.dup2(os.open(request["out"] + end, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                Points(run_dir, request["stop"], request["when"], request["fault"], tell).install()
                return work(first, *more)
            os.close(tell)
            with os.fdopen(told, "rb") as file:
                points = file.read().decode().splitlines()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(json.dumps({"code": code, "points": points}), file=answer)
        os._exit(0)

    return loop


def main() -> None:
    preload()
    import r1zero.launch.resume as resume
    import r1zero.train.run as run

    resuming = any(argument.startswith("resume=") for argument in sys.argv[1:])
    owner, name = (resume, "finished") if resuming else (run, "train")
    setattr(owner, name, serve(getattr(owner, name)))
    sys.argv[0] = str(ROOT / "train.py")
    run_to_the_end()


if __name__ == "__main__":
    main()
