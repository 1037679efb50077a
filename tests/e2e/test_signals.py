"""Signals at awkward moments: the exit code says which, nothing is left running, no traceback is shown."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pandas as pd
import pytest

from run_support import SMALL, Server, start, status, until, wait


@pytest.mark.parametrize(
    ("fault", "code", "word"),
    [
        ("sigint_at_start:1", 130, "interrupted"),  # the model is being loaded
        ("sigint_at_start:2", 130, "interrupted"),  # the engine is starting
        ("sigterm_at_start:1", 143, "terminated"),
        ("sigterm_at_start:2", 143, "terminated"),
        ("sigint_twice:3", 130, "interrupted"),  # in the learning of step 1
    ],
)
def test_a_signal_stops_at_once_where_there_is_nothing_to_finish(
    server: Server, tmp_path: Path, fault: str, code: int, word: str
) -> None:
    done = server.run([*SMALL, "eval.at_start=false", "checkpoint.every=1", "hydra.run.dir=run"], tmp_path, fault)
    assert done.code == code
    assert done.err.splitlines() == [word]
    state = status(tmp_path / "run")
    assert state["state"] == "interrupted"
    saved = [p.name for p in (tmp_path / "run").glob("checkpoints/*")]
    assert saved == (["step_000001.ckpt"] if "twice" in fault else [])


def test_a_process_is_stopped_by_ctrl_c_while_it_imports(tmp_path: Path) -> None:
    """A real process, before anything is set up: one word, 130."""
    process = start([*SMALL, "hydra.run.dir=run"], tmp_path)
    until(lambda: (tmp_path / "run").exists() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    done = wait(process)
    assert done.code == 130
    assert done.err.splitlines() == ["interrupted"]
    assert done.out == ""


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_after_saving_the_point_under_way(tmp_path: Path) -> None:
    """The signal reaches the sweep alone, as from a supervisor; it hands it on, and begins no other point."""
    args = [*SMALL, "steps=200", "eval.every=0", "-m", "seed=0,1", "hydra.sweep.dir=sweep"]
    process = start(args, tmp_path)
    points = tmp_path / "sweep"
    until(lambda: any(points.glob("*/completions/step_000001.parquet")) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    done = wait(process)
    assert done.code == 130, done.err
    (folder,) = (p for p in points.iterdir() if (p / "status.json").exists())
    assert status(folder)["state"] == "interrupted"
    assert (folder / "policy" / "model.safetensors").is_file()


@pytest.mark.vllm
@pytest.mark.slow
def test_ctrl_c_with_vllm_saves_and_leaves_nothing_running(tmp_path: Path) -> None:
    """A signal of the terminal reaches the whole group: the workers of the grader must not die of it."""
    process = start([*SMALL, "rollout=vllm", "steps=200", "eval.every=0", "hydra.run.dir=run"], tmp_path)
    folder = tmp_path / "run"
    until(lambda: (folder / "completions" / "step_000001.parquet").exists() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    done = wait(process)
    assert done.code == 130, done.err
    assert done.err == ""
    state = status(folder)
    assert state["state"] == "interrupted"
    assert [p.name for p in folder.glob("checkpoints/*")][-1] == f"step_{state['step']:06d}.ckpt"
    assert (folder / "policy" / "model.safetensors").is_file()


def test_gradients_that_are_not_finite_stop_the_run_after_some(server: Server, tmp_path: Path) -> None:
    """Each such step is left out and said; five in a row end the run in one line."""
    args = [*SMALL, "steps=20", "eval.every=0", "eval.at_start=false", "hydra.run.dir=run"]
    done = server.run(args, tmp_path, "nan_in_loss:1")
    assert done.code == 1
    assert len(done.errors) == 1
    assert "5 optimizer steps in a row had gradients that are not finite" in done.errors[0]
    assert done.err.count("this optimizer step is left out") == 5
    assert status(tmp_path / "run")["state"] == "failed"
    # Two optimizer steps a rollout step: the fifth is in step 2, whose responses are kept to look at.
    kept = pd.read_parquet(tmp_path / "run" / "failed_step_000002.parquet")
    assert len(kept) == 32
    assert len(list((tmp_path / "run" / "completions").iterdir())) == 2

    done = server.run([*args, "steps=1", "hydra.run.dir=short"], tmp_path, "nan_in_loss:1")
    assert done.code == 1
    assert "no optimizer step had gradients that are finite, so nothing was learned" in done.errors[-1]
    assert not (tmp_path / "short" / "summary.json").exists()
    assert "nan" not in (tmp_path / "short" / "metrics.csv").read_text()
