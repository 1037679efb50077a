"""Runs that several end-to-end tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from run_support import SMALL, STEPS, Server


@pytest.fixture(scope="session")
def undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rollout steps of K = 2 optimizer steps with a schedule, never disturbed; logs to W&B, CSV, TensorBoard."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    loggers = "logger=[wandb,csv,tensorboard]"
    done = server.run([*SMALL, *STEPS, loggers, f"hydra.run.dir={folder}"], folder.parent)
    assert done.code == 0, done.err
    (folder / "console.txt").write_text(done.out)
    return folder
