"""One process at a time in a run folder. Imports nothing heavy."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.launch.files import stored_json

log = logging.getLogger("r1zero")

HOLDER = ".lock.holder"
"""Names the process that holds a folder whose file system has no locks."""


class FolderLock:
    """Holds a folder until :meth:`close`; a lock of the kernel goes with its process, however that ends.

    On a file system without locks a file names the holder, and stays where its process is killed: on the same
    machine it is then taken over, on another one the user is asked.

    Raises:
        UserError: another process holds the folder, or it can't be locked at all.
    """

    def __init__(self, run_dir: Path, shown: Path) -> None:
        self.run_dir, self.shown = run_dir, shown
        self._file: Any = None
        self._holder: Path | None = None
        try:
            self._file = (run_dir / ".lock").open("a")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if self._file is not None:
                self._file.close()
            if error.errno in (errno.EAGAIN, errno.EACCES) and self._file is not None:
                raise self._used(stored_json(run_dir / "status.json")) from error
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            self._name_holder(error)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the folder go; safe to call twice."""
        self._file.close()
        if self._holder is not None:
            self._holder.unlink(missing_ok=True)
            self._holder = None

    def _name_holder(self, why: OSError) -> None:
        """Hold the folder by a file that only one process can make."""
        path = self.run_dir / HOLDER
        us = {"pid": os.getpid(), "host": platform.node()}
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError as error:
            other = stored_json(path)
            if other.get("host") != us["host"] or lives(int(other.get("pid") or 0)):
                raise self._used(other, f"; where that one is gone, remove {self.shown / HOLDER}") from error
            path.unlink(missing_ok=True)  # its process was killed
            return self._name_holder(why)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(us))
        self._holder = path
        log.warning(
            "%s lies on a file system without locks (%s): %s names this process instead",
            self.shown, why.strerror, HOLDER,
        )  # fmt: skip
        return None

    def _used(self, other: dict[str, Any], advice: str = "") -> UserError:
        who = f" ({other['pid']} on {other['host']})" if "pid" in other and "host" in other else ""
        return UserError(f"another run is using {self.shown}{who}; wait for it or choose another folder{advice}")


def lives(pid: int) -> bool:
    """Whether a process of this machine is there, ours or another user's."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
