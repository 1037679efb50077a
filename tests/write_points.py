"""Stops a run at exact operations on files: ``python write_points.py train.py-arguments``.

One process composes the settings and imports everything, then runs the same command in a fork for each line of its
standard input: {"cases": [[n, "before" | "half" | "after", "kill" or a name of errno], ...], "ends": folder}. An
operation is what the project's own code does to a file of the run folder: open it to write, write, flush, rename,
remove, make a folder.

At each point that is asked for, the run forks for each case: the child works on a copy of the folder, is stopped and
ends as it would; the run itself goes on undisturbed. So a case costs what comes after its fault. Each is answered with
{"case", "code", "err"}, and its folder lies in ``ends/<n>-<when>-<fault>``; the last answer is {"code", "points"},
each point as "write metrics.tmp".
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from forkserver import preload, run_to_the_end

ROOT = Path(__file__).resolve().parents[1]
LOGS = ("train.log",)
"""Files that may lose their end: nobody goes on from them."""


LARGE = 65536
"""Bytes of a piece of a checkpoint in whose middle a run is stopped."""


class Points:
    """Counts the operations below a folder; at those that are asked for, a fork is stopped."""

    def __init__(self, folder: Path, cases: Sequence[tuple[int, str, str]], ends: Path, tell: IO[str]) -> None:
        self.folder, self.cases, self.ends, self.tell = folder.resolve(), cases, ends, tell
        self.count, self.last, self.off = 0, "", False
        self.done: set[tuple[int, str, str]] = set()

    def below(self, path: Any) -> str:
        """The path inside the folder; nothing where it lies elsewhere, is a log, or hooks are off."""
        if self.off:
            return ""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return ""
        full, folder = os.path.abspath(os.fspath(path)), f"{self.folder}/"
        inside = os.path.relpath(full, folder) if full.startswith(folder) else ""
        return "" if inside in LOGS else inside

    def at(
        self, name: str, path: Any, action: Callable[[], Any], partly: Callable[[int], Any] = bool, size: int = 0
    ) -> Any:
        """Do an operation; a fork for each case is stopped at it. ``partly`` does so much of its ``size`` for good."""
        inside = self.below(path)
        if not inside:
            return action()
        point = f"{name} {inside}"
        if point != self.last:  # a checkpoint is written in a thousand pieces: one point
            self.count, self.last = self.count + 1, point
            self.say({"point": point})
        for case in self.cases:
            if case[0] != self.count or case in self.done:
                continue
            if case[1] == "half" and inside.startswith("checkpoints/") and size < LARGE:
                continue
            self.done.add(case)
            if self.forked(case):
                with contextlib.suppress(OSError):  # an operation that fails by itself leaves things as they were
                    if case[1] != "before":
                        partly(size if case[1] == "after" else size // 2) if size else action()
                if case[2] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(getattr(errno, case[2]), os.strerror(getattr(errno, case[2])))
        return action()

    def forked(self, case: tuple[int, str, str]) -> bool:
        """Fork; whether this is the child, whose folder is a copy. The parent comes back when the child has ended."""
        assert threading.current_thread() is threading.main_thread(), "a fork has no other threads"
        self.off = True
        hold, end = self.folder.with_name("hold"), self.ends / "-".join(map(str, case))
        os.rename(self.folder, hold)
        shutil.copytree(hold, self.folder, symlinks=True)
        pid = os.fork()
        if pid == 0:
            self.move_files(str(hold))
            os.dup2(os.open(f"{end}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            return True
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.rename(self.folder, end)
        os.rename(hold, self.folder)
        self.off = False
        self.say({"case": case, "code": code, "err": Path(f"{end}.err").read_text()})
        return False

    def move_files(self, hold: str) -> None:
        """Open files lie in the copy from now on, each at its own place in it."""
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                path = os.readlink(f"/proc/self/fd/{number}")
            except OSError:  # the listing itself
                continue
            if path.startswith(f"{hold}/") and os.path.lexists(path):
                flags = fcntl.fcntl(number, fcntl.F_GETFL)
                new = os.open(f"{self.folder}{path[len(hold) :]}", flags)
                if not flags & os.O_DIRECTORY:
                    os.lseek(new, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
                os.dup2(new, number)
                os.close(new)

    def say(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self.tell, flush=True)

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
        def partly(size: int) -> None:
            self._file.write(data[:size])
            self._file.flush()

        return self._points.at("write", self._path, lambda: self._file.write(data), partly, len(data))

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
            ends = Path(request["ends"])
            ends.mkdir(exist_ok=True)
            pid = os.fork()
            if pid == 0:
                for number, end in ((1, "out"), (2, "err")):
                    os.dup2(os.open(ends / end, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                Points(run_dir, [tuple(case) for case in request["cases"]], ends, answer).install()
                return work(first, *more)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(json.dumps({"code": code, "err": (ends / "err").read_text()}), file=answer)
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
