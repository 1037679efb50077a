"""Every reward that is shipped trains: what a plug-in asks for reaches it from training and from evaluation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from run_support import ROOT, Server

SHIPPED = sorted(path.stem for path in (ROOT / "conf" / "reward").glob("*.yaml"))


@pytest.mark.parametrize("reward", SHIPPED)
def test_every_shipped_reward_trains(server: Server, tmp_path: Path, reward: str) -> None:
    """No verdict fails: a plug-in that misses an argument would be a crash on every answer."""
    sizes = ["rollout.questions=4", "algo.minibatch_size=32", "rollout.max_tokens=64", "eval.limit=4", "steps=1"]
    choices = ["experiment=demo", f"reward={reward}", "rollout=hf", "hydra.run.dir=run"]
    done = server.run([*choices, *sizes], tmp_path)
    assert done.code == 0, done.errors
    table = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert table["reward/failures"].dropna().eq(0).all()
    completions = pd.read_parquet(tmp_path / "run" / "completions")
    assert not completions["status"].isin(["crash", "timeout"]).any()
