"""A long run on real vLLM: no memory, descriptor or process leaks; the same weights through many kills.

Too long for every day: ``R1ZERO_SOAK=500 pytest tests/e2e/test_soak.py`` (the number is the rollout steps).
The figures go to the folder ``R1ZERO_SOAK_OUT``, as a picture and as a table.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

from run_support import SMALL, assert_same_run, start, status, table, wait
from soak_picture import draw_soak, soak_table

STEPS = int(os.environ.get("R1ZERO_SOAK", "0"))
KILLS = int(os.environ.get("R1ZERO_SOAK_KILLS", "20"))
ARGS = [*SMALL, "rollout=vllm", f"steps={STEPS}", "eval.every=0", f"checkpoint.every={max(STEPS // 50, 2)}"]
ARGS.append("rollout.kv_cache_gib=0.1")  # its pages are touched one after the other: a larger one looks like a leak
GRADER = 8
"""Descriptors and processes that the grader takes once, when the first answer needs it."""

pytestmark = [
    pytest.mark.skipif(not STEPS, reason="R1ZERO_SOAK is not set"),
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(0),
]


class Watch(threading.Thread):
    """Looks at a run four times a second: rollout steps done, memory, descriptors, it and its children."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        super().__init__(daemon=True)
        self.process, self.folder = process, folder
        self.rows: list[dict[str, int]] = []
        self.start()

    def run(self) -> None:
        main = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            try:
                processes = 1 + len(main.children(recursive=True))
                row = {"step": steps_done(self.folder), "memory_mib": main.memory_info().rss // 2**20}
                self.rows.append(row | {"descriptors": main.num_fds(), "processes": processes})
            except psutil.NoSuchProcess:
                continue
            time.sleep(0.25)


@dataclass
class Runs:
    """What the tests look at: two run folders, figures of the first, and when the second was killed."""

    undisturbed: Path
    killed: Path
    table: pd.DataFrame
    kills: list[int]


def steps_done(folder: Path) -> int:
    return len(list((folder / "completions").glob("*.parquet"))) if folder.exists() else 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One run that nothing disturbs, and beside it the same run, killed again and again."""
    root = tmp_path_factory.mktemp("soak")
    process = start([*ARGS, "hydra.run.dir=undisturbed"], root)
    try:
        watch = Watch(process, root / "undisturbed")
        kills = kill_and_resume(root)
        done = wait(process, timeout=7200)
        assert done.code == 0, done.err
    finally:
        process.kill()
    differences = [float(row["sync/logprob_diff_mean"]) for row in table(root / "undisturbed")[:STEPS]]
    numbers = soak_table(pd.DataFrame(watch.rows), differences, kills)
    print("\n", draw_soak(numbers, Path(os.environ.get("R1ZERO_SOAK_OUT", root))))
    return Runs(root / "undisturbed", root / "killed", numbers, kills)


def kill_and_resume(root: Path) -> list[int]:
    """Run to the end through SIGKILLs at random moments, in whatever the run is doing; the step of each."""
    folder, chance, kills = root / "killed", random.Random(0), []
    while True:
        process = start(["resume=killed"] if kills else [*ARGS, "hydra.run.dir=killed"], root)
        if len(kills) < KILLS:
            begun, target = time.time(), chance.randint(1, max(2 * (STEPS - 2) // max(KILLS + 1, 1), 2))
            while taken(folder, begun) < target and process.poll() is None:
                time.sleep(0.2)
            time.sleep(chance.random())
            process.kill()
        done = wait(process, timeout=7200)
        assert done.code in (-9, 0), done.err
        if done.code == 0:
            return kills
        kills.append(steps_done(folder))


def taken(folder: Path, since: float) -> int:
    """Rollout steps since a moment."""
    return sum(file.stat().st_mtime > since for file in (folder / "completions").glob("*.parquet"))


def test_nothing_grows(runs: Runs) -> None:
    """From a fifth of the run to its last step: memory by less than 2 %, nothing else by what the steps do."""
    settled = runs.table[STEPS // 5 :].dropna()
    third = max(len(settled) // 3, 1)
    early, late = settled[:third], settled[-third:]
    for name in ("memory_mib", "descriptors", "processes"):
        print(f"{name}: {early[name].mean():.1f} -> {late[name].mean():.1f}")
    assert late["memory_mib"].mean() < 1.02 * early["memory_mib"].mean()
    assert late["descriptors"].mean() < early["descriptors"].mean() + GRADER
    assert late["processes"].max() <= early["processes"].max() + GRADER


def test_the_sync_difference_stays_flat(runs: Runs) -> None:
    """Rounding, from the first step to the last: it neither jumps nor creeps."""
    differences = runs.table["sync_difference"]
    assert len(differences) == STEPS
    assert differences.max() < 1e-5
    fifth = max(STEPS // 5, 1)
    assert differences[-fifth:].mean() < 3 * differences[:fifth].mean()


def test_many_kills_end_in_the_same_weights(runs: Runs) -> None:
    """Everything that the two runs left is equal: weights, optimizer, loader, metrics, samples."""
    assert len(runs.kills) == KILLS
    assert status(runs.killed)["state"] == "finished"
    assert_same_run(runs.undisturbed, runs.killed, STEPS)
