"""Random settings of the commands: each run takes its step, or ends in one line; none ends well with a NaN.

60 cases; ``R1ZERO_FUZZ=2000`` for as many as that (``make soak``), ``R1ZERO_FUZZ_SEED`` for others.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import threading
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from config_fuzz import Command, cases
from run_support import ENVIRONMENT, Finished, Server

COUNT = int(os.environ.get("R1ZERO_FUZZ", "60"))
SEED = int(os.environ.get("R1ZERO_FUZZ_SEED", "0"))
PATIENCE = 300
"""Seconds after which a run of one step counts as hung."""


UNREAL = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)


def faults(done: Finished, changed: list[str], folder: Path) -> list[str]:
    """What is wrong with how a run ended."""
    found = []
    if "Traceback" in done.out + done.err:
        found.append("a traceback")
    if done.code == 0:
        found += [
            f"nan on the console: {line}" for line in done.out.splitlines() if re.search(r"(?i)\b(nan|inf)\b", line)
        ]
        found += unreal(folder)
    elif done.code != 1:
        found.append(f"exit code {done.code}")
    elif len(done.errors) != 1 or not done.errors[0].startswith("error: "):
        found.append(f"{len(done.errors)} lines of errors")
    elif "unexpected" in done.errors[0]:
        found.append("an error that nobody thought of")
    return found


def unreal(folder: Path) -> list[str]:
    """Figures of a finished run that are no numbers."""
    found = []
    for table in ("metrics.csv", "updates.csv"):
        rows = csv.DictReader((folder / table).read_text().splitlines()) if (folder / table).is_file() else ()
        found += [
            f"{table}: {name}={value}" for row in rows for name, value in row.items() if value in ("nan", "inf", "-inf")
        ]
    for name in ("summary.json", "results.json", "analysis.json"):
        if (folder / name).is_file() and re.search(r"\b(NaN|Infinity)\b", (folder / name).read_text()):
            found.append(f"{name} holds a NaN")
    return found


def run(server: Server, command: Command, changed: list[str], folder: Path) -> list[str]:
    """Run one case; what is wrong with its end, as lines."""
    arguments = [*command.small, *changed, "hydra.run.dir=run"]
    running = server.start(arguments, folder, env=ENVIRONMENT, script=command.script)
    hung = threading.Timer(PATIENCE, lambda: os.killpg(running.pid, signal.SIGKILL))
    hung.start()
    try:
        done = running.wait()
    finally:
        hung.cancel()
    shown = f"{command.script} {json.dumps(changed, ensure_ascii=False)}"
    return [f"{shown}: {fault}; {' '.join(done.errors)[-300:]}" for fault in faults(done, changed, folder / "run")]


def test_random_settings_train_a_step_or_end_in_one_line(server: Server, tmp_path: Path) -> None:
    found: list[str] = []
    ends = {"runs": 0}

    @seed(SEED)
    @settings(
        max_examples=COUNT, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases())
    def one(case: tuple[Command, list[str]]) -> None:
        ends["runs"] += 1
        folder = tmp_path / str(ends["runs"])
        folder.mkdir()
        new = run(server, *case, folder)
        found.extend(new)
        if log := os.environ.get("R1ZERO_FUZZ_LOG"):
            with open(log, "a") as file:
                file.writelines(f"{line}\n" for line in new or [f"ok {case[0].script} {case[1]}"])

    one()
    assert not found, f"{len(found)} of {ends['runs']}:\n" + "\n".join(found)
