"""A long run on real vLLM: no memory, descriptor or process leaks; the same weights through many kills.

Too long for every day: ``R1ZERO_SOAK=500 pytest tests/e2e/test_soak.py`` (the number is the rollout steps).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import psutil
import pytest

from run_support import SMALL, assert_same_run, start, status, table, wait

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


def steps_done(folder: Path) -> int:
    return len(list((folder / "completions").glob("*.parquet"))) if folder.exists() else 0


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int, int, int]]]:
    """The undisturbed run, and (steps, MiB, descriptors, it and its children) over time."""
    folder = tmp_path_factory.mktemp("soak") / "run"
    process = start([*ARGS, f"hydra.run.dir={folder}"], folder.parent)
    seen: list[tuple[int, int, int, int]] = []
    main = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [main, *main.children(recursive=True)]
            seen.append((steps_done(folder), main.memory_info().rss // 2**20, main.num_fds(), len(family)))
        except psutil.NoSuchProcess:
            continue
        time.sleep(2)
    done = wait(process)
    assert done.code == 0, done.err
    return folder, seen


def test_nothing_grows(long_run: tuple[Path, list[tuple[int, int, int, int]]]) -> None:
    """From a fifth of the run to its last step: memory by less than 2 %, nothing else by what the steps do."""
    _, seen = long_run
    settled = [row for row in seen if STEPS // 5 <= row[0] < STEPS]
    third = max(len(settled) // 3, 1)
    early, late = settled[:third], settled[-third:]
    mean = lambda rows, column: sum(row[column] for row in rows) / len(rows)  # noqa: E731
    print(f"MiB {mean(early, 1):.0f} -> {mean(late, 1):.0f}, descriptors {mean(early, 2):.1f} -> {mean(late, 2):.1f}")
    assert mean(late, 1) < 1.02 * mean(early, 1)
    assert mean(late, 2) < mean(early, 2) + GRADER
    assert max(row[3] for row in late) <= max(row[3] for row in early) + GRADER


def test_the_sync_difference_stays_flat(long_run: tuple[Path, list[tuple[int, int, int, int]]]) -> None:
    folder, _ = long_run
    differences = [float(row["sync/logprob_diff_mean"]) for row in table(folder)[:STEPS]]
    assert len(differences) == STEPS
    assert max(differences) < 1e-5


def test_many_kills_end_in_the_same_weights(
    long_run: tuple[Path, list[tuple[int, int, int, int]]], tmp_path: Path
) -> None:
    """SIGKILL at random moments, in whatever the run is doing."""
    folder = tmp_path / "run"
    chance = random.Random(0)
    for number in range(KILLS + 1):
        process = start(["resume=run"] if number else [*ARGS, "hydra.run.dir=run"], tmp_path)
        if number < KILLS:
            begun = time.time()

            def taken(since: float = begun) -> int:
                files = (folder / "completions").glob("*.parquet")
                return sum(file.stat().st_mtime > since for file in files)

            target = chance.randint(1, max(2 * STEPS // max(KILLS, 1), 2))
            while taken() < target and process.poll() is None:
                time.sleep(0.2)
            time.sleep(chance.random())
            process.kill()
        done = wait(process, timeout=3600)
        assert done.code in (-9, 0), done.err
        if done.code == 0:
            break
    assert status(folder)["state"] == "finished"
    assert_same_run(long_run[0], folder, STEPS)
