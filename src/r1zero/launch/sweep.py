"""Sweeps: one process per point, finished points left alone, a live table of all of them.

Imports nothing slow: the command line reads it. A point is a run folder named by what varies; its state
is read from ``status.json`` and ``metrics.csv`` there, so a table of points that another process or
another machine runs is drawn alike.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from r1zero.errors import UserError
from r1zero.launch import compat, slurm
from r1zero.launch.files import stored_json, stored_yaml
from r1zero.launch.objective import best_trial, searches
from r1zero.launch.paths import own_folder, quoted
from r1zero.launch.point_state import PointState, read_state
from r1zero.launch.record import checkpoints, set_aside, steps_in, work_in

SCRIPT = "R1ZERO_SCRIPT"
"""Environment variable with the file that the user started: a launcher's worker has another ``sys.argv``."""

NAMING = ("name", "group", "resume")
"""Overrides that name a point and change nothing in it."""

ANOTHER_FOLDER = "give the sweep another folder with hydra.sweep.dir=..."
PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.2
LINE_SECONDS = 30.0
"""Without a terminal there is no live table; then a line when a point changes its state, or in so many seconds."""


@dataclass(frozen=True)
class Names:
    """How a point and its sweep are called in the loggers."""

    point: str
    group: str


def expand_points(params: dict[str, str], arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of every point: the product of all axes, in Hydra's order.

    Args:
        params: axes and settings of ``hydra.sweeper.params``.
        arguments: overrides of the command line, which win over ``params``.
    """
    given = {a.partition("=")[0] for a in arguments}
    merged = [*(f"{k}={v}" for k, v in params.items() if k not in given), *arguments]
    return compat.sweep_points(OverridesParser.create().parse_overrides(merged))


def name_of(overrides: Sequence[str], fixed: Sequence[str], kv_sep: str = "-", item_sep: str = "_") -> str:
    """A point's name: what varies, as Hydra's ``override_dirname`` spells it."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return compat.override_dirname(parsed, list(fixed), item_sep, kv_sep)


def settings(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that only name the point."""
    return sorted(o for o in overrides if o.partition("=")[0] not in NAMING and not o.startswith("hydra."))


# -- one point ----------------------------------------------------------------------------------------


def run_point(
    script: str, overrides: Sequence[str], folder: Path, names: Names | None, advice: str = ANOTHER_FOLDER
) -> int:
    """Run one point in a process of its own, or leave it alone where it is finished already.

    A process of its own frees the engine's memory, W&B and every random state between points, and keeps
    Lightning's DDP children from starting the whole sweep again (traps 55, 56). It has a process group of
    its own, so that a signal reaches it once, through us, and it is asked to end when this process is
    killed. What it prints goes to ``console.log`` in its folder. An interrupted or failed point continues
    from its newest checkpoint; one that had none begins again, and what it left is kept in ``attempt_<n>``.

    Args:
        script: the entry point, such as ``train.py``.
        overrides: the point's overrides.
        folder: its run folder.
        names: what it is called in the loggers; None for an entry point without such settings.
        advice: what to do, besides removing it, about a folder that holds a run with other settings.

    Returns:
        exit code of the point; 0 where there was nothing to do.

    Raises:
        UserError: the folder holds a run with other settings, or one that another process runs.
        KeyboardInterrupt: the sweep was asked to stop; the point has saved and ended.
    """
    if changed := other_run(folder, overrides):
        raise UserError(f"{folder} {changed}: remove it, or {advice}")
    state = read_state(folder)
    if state.state == "finished":
        return 0
    machines, machine = slurm.machines()
    if state.state in ("starting", "running") and machine == 0:
        raise UserError(f"{folder} is being run by another process{_owner(folder)}")
    folder.mkdir(parents=True, exist_ok=True)
    extra = [f"name={quoted(names.point)}", f"group={quoted(names.group)}"] if names else []
    extra += [f"hydra.run.dir={quoted(folder)}", "hydra.mode=RUN"]
    if checkpoints(folder):
        extra.append(f"resume={quoted(folder)}")
    elif steps_in(folder / "metrics.csv"):
        set_aside(folder)
    plain = [o for o in overrides if o.partition("=")[0] not in NAMING]
    with (folder / "console.log").open("a") as console:
        child = subprocess.Popen(
            [sys.executable, *(slurm.torchrun(machines, machine) if machines > 1 else []), script, *plain, *extra],
            stdout=console,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=slurm.environment(),
            preexec_fn=_end_with_parent,
        )
        return wait(child)


def other_run(folder: Path, overrides: Sequence[str]) -> str:
    """Says so where a folder holds the work of a run with other settings; one that took no step holds nothing."""
    stored = _stored(folder)
    if stored is None or settings(stored) == settings(overrides):
        return ""
    if read_state(folder).state not in ("finished", "starting", "running") and not work_in(folder):
        return ""
    return f"holds a run with other settings ({', '.join(sorted(set(settings(stored)) ^ set(settings(overrides))))})"


def group_of(folder: Path) -> str:
    """The name of a sweep in the loggers: the last two parts of its folder."""
    return "/".join(folder.parts[-2:])


def wait(child: subprocess.Popen[Any]) -> int:
    """Wait for a child; a signal to us is passed on, the child saves and ends, and then we end."""
    stop: KeyboardInterrupt | None = None
    code = None
    while code is None:
        try:
            code = child.wait()
        except KeyboardInterrupt as error:
            stop = stop or error
            child.send_signal(getattr(error, "number", signal.SIGINT))
    if stop is not None:
        raise stop
    return code


def why(folder: Path) -> str:
    """Why a point failed, in one line."""
    error = read_state(folder).error
    if not error and (folder / "console.log").is_file():
        lines = [line.strip() for line in (folder / "console.log").read_text(errors="replace").splitlines()]
        errors = [line for line in lines if "error: " in line.lower()]
        error = (errors or [line for line in lines if line] or [""])[-1].removeprefix("error: ")
    return error or f"see {folder}/console.log"


def _end_with_parent() -> None:
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _owner(folder: Path) -> str:
    """Which process says to run a point, and what to do where that is not so any more."""
    status = stored_json(folder / "status.json")
    who = f" ({status.get('pid')} on {status.get('host')})"
    return f"{who}; where that one is gone, remove {folder}/status.json"


def _stored(folder: Path) -> list[str] | None:
    file = folder / ".hydra" / "overrides.yaml"
    return list(stored_yaml(file) or []) if file.is_file() else None


# -- the table ----------------------------------------------------------------------------------------


class SweepTable(threading.Thread):
    """Shows the points of a sweep while they run: a live table on a terminal, a line per change elsewhere."""

    def __init__(self, title: str, folders: dict[str, Path], points: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(daemon=True, name="sweep-table")
        self.title, self.folders = title, folders
        # As it is before the first of them starts: a point in another run's folder will be refused.
        self.refused = {name: why for name, p in (points or {}).items() if (why := other_run(folders[name], p))}
        self._stop_asked = threading.Event()
        self._since = time.time()

    def states(self) -> dict[str, PointState]:
        """The state of every point."""
        return {
            name: PointState("refused", error=self.refused[name]) if name in self.refused else read_state(folder)
            for name, folder in self.folders.items()
        }

    def run(self) -> None:
        """Draw until :meth:`close`."""
        from rich.live import Live

        from r1zero.launch.console import console

        if console.is_terminal:
            with Live(self.table(), console=console, refresh_per_second=2, transient=True) as live:
                while not self._stop_asked.wait(1.0):
                    live.update(self.table())
            return
        shown: dict[str, str] = {}
        last = time.monotonic()
        while not self._stop_asked.wait(POLL_SECONDS):
            states = self.states()
            for name, state in states.items():
                if shown.get(name, "waiting") != state.state and state.state != "starting":
                    shown[name] = state.state
                    console.print(f"{self.title}: {name} {_line(state)}", highlight=False, soft_wrap=True)
                    last = time.monotonic()
            if time.monotonic() - last > LINE_SECONDS:
                last = time.monotonic()
                for name, state in states.items():
                    if state.state == "running":
                        console.print(f"{self.title}: {name} {_line(state)}", highlight=False, soft_wrap=True)

    def table(self) -> Any:
        """The points as a rich table."""
        from rich.table import Table
        from rich.text import Text

        states = self.states()
        done = sum(s.state == "finished" for s in states.values())
        table = Table(
            title=f"{self.title}: {done} of {len(states)} points finished, {clock(time.time() - self._since)}"
        )
        for column in ("point", "state", "step", "reward", "ETA"):
            table.add_column(column, justify="left" if column in ("point", "state") else "right")
        colours = {"finished": "green", "failed": "red", "refused": "red", "running": "cyan", "interrupted": "yellow"}
        for name, state in states.items():
            colour = colours.get(state.state, "dim")
            table.add_row(
                name,
                Text(state.state, style=colour),
                f"{state.step}/{state.steps}" if state.steps else "",
                "" if state.reward is None else f"{state.reward:.3f}",
                clock(state.eta) if state.eta is not None else "",
            )
        return table

    def close(self) -> list[str]:
        """Stop drawing, print the table once more; returns the names of the failed points."""
        from r1zero.launch.console import console

        self._stop_asked.set()
        if self.is_alive():
            self.join()
        console.print(self.table())
        failed = [name for name, state in self.states().items() if state.state != "finished"]
        for name in failed:
            reason = self.refused.get(name, "")
            if not reason and (self.folders[name] / "console.log").is_file():
                reason = why(self.folders[name])
            if reason:
                console.print(f"not finished: {name}: {reason}", highlight=False, soft_wrap=True)
        return failed


def _line(state: PointState) -> str:
    parts = [state.state]
    if state.steps:
        parts.append(f"step {state.step}/{state.steps}")
    if state.reward is not None:
        parts.append(f"reward {state.reward:.3f}")
    if state.eta is not None:
        parts.append(f"ETA {clock(state.eta)}")
    if state.error:
        parts.append(state.error)
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    whole = round(max(seconds, 0.0))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class SweepCallback(Callback):
    """Hydra's hook before a run or a sweep: folders; and the points of a sweep, before the first one starts."""

    table: SweepTable | None = None
    """The table of the sweep that this process runs."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Give a run that names no folder one of its own."""
        own_folder(config.hydra, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the points and open the table; a search has no points yet, and says each when it has ended."""
        hydra = config.hydra
        own_folder(hydra, "sweep")
        if searches(hydra):
            return
        naming = hydra.job.config.override_dirname
        try:
            points = expand_points(dict(hydra.sweeper.params or {}), list(hydra.overrides.task))
        except (HydraException, OmegaConfBaseException):
            return  # the sweeper meets the same error and it is reported there
        folder = Path(hydra.sweep.dir)
        folders, overrides = {}, {}
        for number, point in enumerate(points):
            place = subdir(config, number, name_of(point, naming.exclude_keys, naming.kv_sep, naming.item_sep), point)
            folders[place], overrides[place] = folder / place, point
        SweepCallback.table = SweepTable(group_of(folder), folders, overrides)
        SweepCallback.table.start()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say what a search has found."""
        if searches(config.hydra) and (line := best_trial(Path(config.hydra.sweep.dir))):
            print(line, flush=True)


def close_table() -> list[str]:
    """Close the table of this process's sweep, if it has one; returns the points that have not finished."""
    table, SweepCallback.table = SweepCallback.table, None
    return table.close() if table is not None else []


def subdir(config: DictConfig, number: int, name: str, overrides: Sequence[str]) -> str:
    """Folder of a point below the sweep's, as ``hydra.sweep.subdir`` spells it."""
    copy = OmegaConf.masked_copy(config, [str(key) for key in config])
    OmegaConf.set_readonly(copy.hydra, False)
    with open_dict(copy.hydra):
        copy.hydra.job.num, copy.hydra.job.override_dirname = number, name
        copy.hydra.overrides.task = list(overrides)
    return str(copy.hydra.sweep.subdir)
