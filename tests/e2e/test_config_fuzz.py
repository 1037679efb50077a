"""Random settings of the commands: each run takes its step, or ends in one line; none ends well with a NaN.

60 cases; ``R1ZERO_FUZZ=2000`` for as many as that (``make soak``), ``R1ZERO_FUZZ_SEED`` for others. Most are refused
before anything is loaded, which is tried in this process; of the others the first five run, or all of them.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from omegaconf import OmegaConf

from config_fuzz import Command, cases
from r1zero import config
from r1zero.evaluate import config as evaluate_config
from r1zero.lab.analysis import config as analysis_config
from r1zero.launch.arguments import folder_name
from r1zero.pretrain import config as pretrain_config
from run_support import ENVIRONMENT, ROOT, Finished, Server

COUNT = int(os.environ.get("R1ZERO_FUZZ", "60"))
SEED = int(os.environ.get("R1ZERO_FUZZ_SEED", "0"))
RUNS = COUNT if "R1ZERO_FUZZ" in os.environ else 5
"""Cases that may run; a refusal costs a fifth of a second, a run three."""
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
    elif done.errors[0].startswith("error: unexpected "):
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


@pytest.fixture
def composing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Configs can be composed in this process, as the commands do it."""
    for module in (config, evaluate_config, analysis_config, pretrain_config):
        module.register()
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    monkeypatch.setenv("R1ZERO_CONF", str(ROOT / "conf"))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def refused(command: Command, changed: list[str]) -> tuple[bool, list[str]]:
    """Whether the settings are refused before anything is loaded, and what is wrong with how that is said."""
    shown = f"{command.script} {json.dumps(changed, ensure_ascii=False)}"
    try:
        line = command.refusal(changed, ROOT / "conf")
    except Exception as error:
        return True, [f"{shown}: {type(error).__name__}: {error}"]
    return bool(line), [f"{shown}: more than a line: {line}"] if "\n" in line else []


@pytest.mark.timeout(0 if "R1ZERO_FUZZ" in os.environ else 900)
def test_random_settings_train_a_step_or_end_in_one_line(server: Server, tmp_path: Path, composing: None) -> None:
    found: list[str] = []
    ends = {"cases": 0, "runs": 0}
    seen: set[tuple[str, ...]] = set()

    @seed(SEED)
    @settings(
        max_examples=COUNT, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases())
    def one(case: tuple[Command, list[str]]) -> None:
        drawn = (case[0].script, *case[1])
        assume(drawn not in seen)  # a generator that varies its examples often draws one again
        seen.add(drawn)
        ends["cases"] += 1
        ended, new = refused(*case)
        if not ended and ends["runs"] < RUNS:
            ends["runs"] += 1
            folder = tmp_path / str(ends["runs"])
            folder.mkdir()
            new = run(server, *case, folder)
        found.extend(new)
        if log := os.environ.get("R1ZERO_FUZZ_LOG"):
            with open(log, "a") as file:
                file.writelines(f"{line}\n" for line in new or [f"ok {case[0].script} {case[1]}"])

    one()
    print(f"{ends['cases']} cases, {ends['runs']} of them runs, {len(found)} faults")
    assert not found, "\n".join(found)
