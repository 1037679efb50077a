"""The command line: shorthand arguments, resume, one process per sweep point, errors in one line.

Imports neither torch nor anything else that is slow, so ``--help`` answers at once.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from r1zero import config
from r1zero.errors import SyncError, UserError

REQUIRED_GROUPS = ("algo", "model", "template", "data", "reward", "rollout", "optim", "trainer")

TaskFunction = Callable[[DictConfig], Any]


def main(entry: Callable[[], Any], script: Path) -> int:
    """Run a Hydra entry point and turn what goes wrong into one line.

    Args:
        entry: function decorated with ``hydra.main``.
        script: the file that the user started; ``conf/`` stands beside it or one folder up.

    Returns:
        exit code: 0, 1 after an error, 130 after Ctrl-C.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    conf = next(folder / "conf" for folder in (script.parent, script.parent.parent) if (folder / "conf").is_dir())
    config.register()
    try:
        sys.argv[1:] = expand(sys.argv[1:], conf)
        entry()
        if job_result.error is not None:
            raise job_result.error
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (UserError, SyncError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 1
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error, sys.argv[1:])}", file=sys.stderr)
        return 1
    return job_result.code


class JobResult:
    """How the job in this process ended. Hydra drops a task's return value and announces its exceptions itself."""

    code = 0
    error: BaseException | None = None


job_result = JobResult()


def dispatch(cfg: DictConfig, job: Callable[[DictConfig, Path], int]) -> None:
    """Run one job here, or, in a sweep, one process per point.

    A process of its own frees the engine's memory, W&B and every random state between points, and keeps
    Lightning's DDP children from starting the whole sweep again (traps 55, 56).

    Args:
        cfg: the composed config.
        job: takes the config and the run folder, returns an exit code.
    """
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        run_point(list(hydra_config.overrides.task), run_dir, str(hydra_config.job.num))
    else:
        try:
            job_result.code = job(cfg, run_dir)
        except (UserError, SyncError, OmegaConfBaseException, KeyboardInterrupt) as error:
            job_result.error = error


def run_point(overrides: list[str], run_dir: Path, number: str) -> None:
    """Run one sweep point in a process of its own; a failure is named, and the sweep goes on."""
    print(f"[sweep point {number}] {' '.join(overrides)}", flush=True)
    command = [sys.executable, sys.argv[0], *overrides, f"hydra.run.dir='{run_dir}'", "hydra.mode=RUN"]
    child = subprocess.Popen(command)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        # The terminal sent the signal to the child as well; let it save and end.
        child.wait()
        raise
    if code in (128 + signal.SIGINT, -signal.SIGINT):
        raise KeyboardInterrupt
    if code:
        print(f"[sweep point {number}] failed with exit code {code}; see {run_dir}/train.log", file=sys.stderr)
        job_result.code = 1


# -- arguments ----------------------------------------------------------------------------------------


def expand(arguments: list[str], conf: Path) -> list[str]:
    """Rewrite shorthand into what Hydra reads; applying it twice changes nothing.

    ``model=<folder>`` and ``data=<path>`` become the options ``folder`` and ``file`` with the path;
    ``resume=<folder>`` brings the stored command line back.

    Raises:
        UserError: a group is set to null, or there is nothing to resume from.
    """
    resume = next((a.split("=", 1)[1].strip("'\"") for a in arguments if a.startswith("resume=")), None)
    if resume and resume != "null" and not any(a.startswith("hydra.run.dir=") for a in arguments):
        arguments = resumed(arguments, Path(resume))
    expanded: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in REQUIRED_GROUPS and value in ("null", ""):
            raise UserError(f"{key}={value} names no option; choose one of {', '.join(options(conf, key))}")
        if key == "model" and is_path(value, conf / "model"):
            expanded += ["model=folder", f"model.path='{value}'"]
        elif key == "data" and is_path(value, conf / "data"):
            expanded += ["data=file", f"data.path='{value}'"]
        else:
            expanded.append(argument)
    return expanded


def is_path(value: str, group: Path) -> bool:
    """Whether a group's value is a path or hub id rather than one of its options."""
    if "," in value or (group / f"{value}.yaml").is_file():
        return False
    return "/" in value or Path(value).exists()


def resumed(arguments: list[str], folder: Path) -> list[str]:
    """The stored command line of a run folder, with the new arguments over it."""
    stored = folder / ".hydra" / "overrides.yaml"
    if not stored.is_file():
        raise UserError(f"resume={folder}: this is no run folder (it has no .hydra/overrides.yaml)")
    new = {argument.partition("=")[0] for argument in arguments}
    old = [a for a in yaml.safe_load(stored.read_text()) or [] if a.partition("=")[0] not in new]
    return [*old, *(a for a in arguments if not a.startswith("resume=")), f"resume='{folder}'", f"hydra.run.dir='{folder}'"]


def options(conf: Path, group: str) -> list[str]:
    """Names of a group's files."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml") if not path.stem.startswith("_"))


# -- errors -------------------------------------------------------------------------------------------


def explain(error: Exception, arguments: list[str]) -> str:
    """A composition error in one line: which argument, what is wrong, what could be meant."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    found = re.search(r"Could not find '([\w.\-/]+)/([^'/]+)'", text)
    if found:
        group, option = found.groups()
        names = [n for n in re.findall(r"^\t([\w.\-]+)$", text, re.MULTILINE) if not n.startswith("_")]
        close = difflib.get_close_matches(option, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{group}={option}: there is no such option; {hint}choose one of {', '.join(names)}"
    found = re.search(r"Key '([^']+)' (?:is )?not in '(\w+)'", text)
    if found:
        key, schema = found.groups()
        names = list(getattr(getattr(config, schema, None), "__dataclass_fields__", {}))
        close = difflib.get_close_matches(key, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(names)}" if names else ""
        argument = next((a for a in arguments if re.search(rf"(^|\.){re.escape(key)}=", a)), key)
        return f"{argument}: there is no setting '{key}' here{hint}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return ": ".join(dict.fromkeys(kept[:2])) if kept else type(error).__name__


def first_line(error: Exception) -> str:
    """The message, on one line."""
    return " ".join(str(error).split())
