"""Where a run stands, read from its folder alone. Imports nothing heavy."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1zero.launch.files import stored_json
from r1zero.launch.lock import lives


@dataclass(frozen=True)
class PointState:
    """Where a point stands.

    ``state`` is waiting, starting, running, finished, interrupted or failed; ``step`` counts rollout steps.
    ``reward`` is the mean of the last five steps, ``eta`` the seconds left at the pace so far.
    """

    state: str = "waiting"
    step: int = 0
    steps: int = 0
    reward: float | None = None
    eta: float | None = None
    error: str = ""


def read_state(folder: Path, now: float | None = None) -> PointState:
    """Where the point of this folder stands."""
    status = stored_json(folder / "status.json")
    if not status:
        return PointState()
    state, steps = str(status.get("state", "starting")), _count(status.get("steps"))
    if state in ("starting", "running") and not _alive(status):
        state = "interrupted"
    rewards, seconds, step = _figures(folder / "metrics.csv")
    eta = None
    if state == "running" and seconds and steps:
        eta = (steps - step) * sum(seconds) / len(seconds)
    reward = sum(rewards[-5:]) / len(rewards[-5:]) if rewards else None
    return PointState(state, step, steps, reward, eta, str(status.get("error", "")))


def _alive(status: dict[str, Any]) -> bool:
    """Whether the process that wrote the status still runs; on another host we can't know and believe it.

    A job that SLURM has put back into its queue keeps its number: then it was our own, and has ended.
    """
    if status.get("host") not in (None, os.uname().nodename):
        return "job" not in status or status["job"] != os.environ.get("SLURM_JOB_ID")
    return lives(_count(status.get("pid")))


def _count(value: Any) -> int:
    """A whole number of a status; 0 where it is none."""
    return value if isinstance(value, int) else 0


def _figures(path: Path) -> tuple[list[float], list[float], int]:
    """Rewards and seconds of each step so far, and the steps done."""
    rewards, seconds, step = [], [], 0
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return [], [], 0
    for row in csv.DictReader(lines):
        try:
            if "train/loss" in row:  # a pretraining: no rewards
                if row["train/loss"] and row.get("step"):
                    step = int(float(row["step"]))
                    seconds.append(float(row.get("time/step") or "nan"))
                continue
            reward, took = float(row["reward/mean"] or "nan"), float(row["time/step"] or "nan")
            number = int(float(row["step"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if reward == reward and took == took:  # the last evaluation's row belongs to no rollout
            rewards.append(reward)
            seconds.append(took)
            step = number + 1
    return rewards, seconds, step
