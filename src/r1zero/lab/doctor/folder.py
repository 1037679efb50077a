"""The invariants of a run folder (docs/run-folder.md), checked one by one; nothing is changed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from r1zero.errors import UserError, first_line
from r1zero.launch.files import SUMS, read_yaml, stored_json, stored_yaml, unlike_sums
from r1zero.launch.lock import HOLDER, lives
from r1zero.launch.point_state import read_state
from r1zero.launch.record import checkpoints, damage, steps_in

STATES = ("starting", "running", "finished", "interrupted", "failed")
FOLDERS = ("policy", "policy_best")
"""Model folders that a run exports."""


def findings(run_dir: Path) -> list[str]:
    """What is wrong with a run folder, one line each; nothing where all invariants hold."""
    checks = (settings, status, half_written, weights, models, rows, tables)
    return [line for check in checks for line in check(run_dir)]


def settings(run_dir: Path) -> Iterator[str]:
    """The command line and the settings are stored, and can be read."""
    for name in (".hydra/overrides.yaml", "config.yaml"):
        file = run_dir / name
        if not file.is_file():
            yield f"{name}: it is missing, so resume= has nothing to read"
            continue
        try:
            stored_yaml(file)
        except UserError as error:
            yield f"{name}: {str(error).removeprefix(str(file)).strip()}"


def status(run_dir: Path) -> Iterator[str]:
    """A status of a known kind; a run that is under way has a process, one that has finished a policy and a summary."""
    if not (run_dir / "status.json").is_file():
        yield "status.json: it is missing; the run ended before it held its folder, or was made elsewhere"
        return
    content = stored_json(run_dir / "status.json")
    state = content.get("state")
    if state not in STATES:
        yield f"status.json: the state {state!r} is none of {', '.join(STATES)}"
        return
    if state in ("starting", "running") and read_state(run_dir).state == "interrupted":
        yield f"status.json: it says {state}, and process {content.get('pid')} is gone: resume={run_dir} continues"
    other = stored_json(run_dir / HOLDER)
    if other and state not in ("starting", "running") and not lives(int(other.get("pid") or 0)):
        yield f"{HOLDER}: it names process {other.get('pid')} on {other.get('host')}, which is gone: remove it"
    if state == "finished" and (run_dir / "metrics.csv").is_file():
        for name in ("summary.json", "policy"):
            if not (run_dir / name).exists():
                yield f"{name}: it is missing from a run that has finished"


def half_written(run_dir: Path) -> Iterator[str]:
    """Nothing half-written stays but in a run that is under way or was killed."""
    if read_state(run_dir).state in ("starting", "running"):
        return
    for path in sorted([*run_dir.glob("*.tmp"), *run_dir.glob("*/*.tmp"), *run_dir.glob("*.old")]):
        yield f"{path.relative_to(run_dir)}: it is half-written; the next resume removes it"


def weights(run_dir: Path) -> Iterator[str]:
    """Every checkpoint is what was written."""
    for path in checkpoints(run_dir):
        if reason := damage(path):
            yield f"{path.relative_to(run_dir)}: {reason}; resume= continues from the one before"


def models(run_dir: Path) -> Iterator[str]:
    """Every file of an exported model is what was written."""
    for name in FOLDERS:
        folder = run_dir / name
        if not folder.is_dir():
            continue
        if not (folder / SUMS).is_file():
            yield f"{name}: it has no {SUMS}, so it can't be told whether it is whole"
        try:
            for file in unlike_sums(folder):
                yield f"{name}/{file}: it is not what was written"
        except OSError as error:
            yield f"{name}: {error.strerror}: {error.filename}"


def rows(run_dir: Path) -> Iterator[str]:
    """A row per step from the first to the last, none twice, and at least as many as the newest checkpoint has steps.

    Pretraining has two rows where a held-out loss was measured.
    """
    table = run_dir / "metrics.csv"
    if not table.is_file():
        return
    try:
        steps = steps_in(table)
    except UserError as error:
        yield f"metrics.csv: {str(error).removeprefix(str(table)).strip()}"
        return
    content = table.read_text(encoding="utf-8")
    if not content.endswith("\n"):
        yield "metrics.csv: its last row was cut short; the next resume leaves it out"
    training = "train/loss" not in content.partition("\n")[0]
    if any(b < a or (training and a == b) for a, b in itertools.pairwise(steps)):
        yield "metrics.csv: its steps are not in order, each once"
    if steps and set(range(steps[0], steps[-1] + 1)) - set(steps):
        yield f"metrics.csv: rows are missing between the steps {steps[0]} and {steps[-1]}"
    saved = [int(path.stem.split("_")[1]) for path in checkpoints(run_dir)]
    last = steps[-1] + 1 if steps and training else max(steps, default=0)
    if saved and saved[0] > last:
        yield f"metrics.csv: it ends with step {steps[-1] if steps else 'none'}, the newest checkpoint is of {saved[0]}"


def tables(run_dir: Path) -> Iterator[str]:
    """Every Parquet file can be read and its checksums hold; responses of every step that metrics.csv has."""
    import pyarrow.parquet as pq

    for path in sorted([*run_dir.glob("completions/*.parquet"), *run_dir.glob("responses/*/part_*.parquet")]):
        try:
            pq.read_table(path, page_checksum_verification=True)
        except (OSError, ValueError) as error:
            yield f"{path.relative_to(run_dir)}: it can't be read ({first_line(error)})"
    every = _every(run_dir)
    if not (run_dir / "completions").is_dir() or not every:
        return
    there = {int(m[1]) for path in (run_dir / "completions").iterdir() if (m := re.match(r"step_(\d+)", path.name))}
    saved = [int(path.stem.split("_")[1]) for path in checkpoints(run_dir)]
    if missing := sorted(set(range(0, saved[0] if saved else 0, every)) - there):
        yield f"completions: the responses of {len(missing)} step(s) are missing, the first of them {missing[0]}"


def _every(run_dir: Path) -> int:
    """Rollout steps between files of responses; 0 where the run has no such callback."""
    try:
        return int(read_yaml(run_dir / "config.yaml")["callbacks"]["samples"]["every"])
    except (UserError, ValueError, KeyError, TypeError):
        return 0


def summary(run_dir: Path) -> str:
    """What a folder holds, in one line."""
    state = read_state(run_dir)
    kind = stored_json(run_dir / "results.json").get("kind", "run")
    return (
        f"{kind} {state.state}, step {state.step}{f' of {state.steps}' if state.steps else ''}, "
        f"{len(checkpoints(run_dir))} checkpoint(s)"
    )
