"""Faults of what a training run leans on: rewards that raise or eat memory, W&B that goes away."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from run_support import SMALL, Server, status, table, until, wandb_records
from wandb_stub import WandbStub

QUICK = [*SMALL, "eval.every=0", "eval.at_start=false", "checkpoint.every=0", "hydra.run.dir=run"]

PLUG_INS = "none"
"""No fault, but the tests' folder can be imported from, where the functions are."""


def reward(name: str) -> list[str]:
    """The verifier, and beside it a function that misbehaves."""
    return ["reward=exact_match", "reward.weight=1", f"reward.functions.exact.path=reward.worker_functions.{name}"]


def test_a_reward_that_always_raises_stops_the_run_in_one_line(server: Server, tmp_path: Path) -> None:
    """It would train on zeros. The responses are kept to look at."""
    done = server.run([*QUICK, *reward("raise_error")], tmp_path, fault=PLUG_INS)
    assert done.code == 1
    (line,) = done.errors
    assert re.match(r"error: the verifier failed on \d+ of 32 answers \(\d+%\); the first: crash, ", line)
    assert "reward function exact: KeyError: 'no such thing'" in line
    assert status(tmp_path / "run")["state"] == "failed"


def test_a_worker_that_eats_memory_is_counted_and_training_goes_on(server: Server, tmp_path: Path) -> None:
    """Where the limit of failures is lifted: each counts 0 and shows, the worker is replaced, the verifier grades."""
    limits = ["reward.stop_failures=1", "reward.memory_gib=1.5", "steps=1"]
    done = server.run([*QUICK, *limits, *reward("eat_memory")], tmp_path, fault=PLUG_INS)
    assert done.code == 0, done.err
    assert "MemoryError" in (tmp_path / "run" / "train.log").read_text()
    samples = pd.read_parquet(tmp_path / "run" / "completions")
    failed = samples["status"] == "crash"
    assert float(table(tmp_path / "run")[0]["reward/failures"]) == failed.mean() > 0.5
    assert set(samples["reward"]) == {0.0, 1.0}


def test_a_wandb_server_that_goes_away_stops_nothing(server: Server, tmp_path: Path) -> None:
    """Every figure is in the run's own file on disk, and the command that uploads it is said."""
    stub = WandbStub()
    key = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_FINISH_TIMEOUT": "3"}
    try:
        running = server.start(
            [*QUICK, "logger=wandb", "callbacks.samples.wandb_every=0", "steps=10"],
            tmp_path,
            env=key | {"WANDB_BASE_URL": stub.url},
        )
        until(lambda: (tmp_path / "run" / "completions" / "step_000000.parquet").exists(), 120)
        assert stub.received, "W&B was there at the beginning"
        stub.die()
        done = running.wait()
    finally:
        stub.die()
    assert done.code == 0, done.err
    assert status(tmp_path / "run")["state"] == "finished"
    (folder,) = (tmp_path / "run" / "wandb").glob("run-*")
    assert f"upload it later with: wandb sync run/wandb/{folder.name}" in done.err
    items = [item for record in wandb_records(folder) for item in record.history.item]
    steps = [i.value_json for i in items if "progress/rollout_step" in ("/".join(i.nested_key), i.key)]
    assert {float(step) for step in steps} >= set(range(10))
