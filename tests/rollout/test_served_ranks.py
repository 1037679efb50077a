"""Several ranks share servers, in processes started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rollout_support import Served

from r1zero.rollout.served.client import TOKEN

HERE = Path(__file__).resolve().parent


@pytest.mark.vllm
def test_two_ranks(tmp_path: Path, pair: Served) -> None:
    """Rank 0 pushes once for both; each samples by its own seed; both serve and check the newest version."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1] / "src")]),
        "OMP_NUM_THREADS": "1",
        TOKEN: pair.engine.fleet.token,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    urls = ",".join(remote.url for remote in pair.engine.remotes)
    done = subprocess.run(
        [*command, str(HERE / "served_rank_worker.py"), str(pair.folder), str(tmp_path), urls],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zero["own"] != one["own"]
    assert zero["common"] == one["common"]
    assert (zero["writes"], one["writes"]) == (True, False)
    for report in (zero, one):
        assert max(report["gaps"]) < 1e-5
        assert "missing model.embed_tokens.weight" in report["error"]
        assert (report["version"], report["sum"]) == (4, 2.0)
    assert [remote.health()["version"] for remote in pair.engine.remotes] == [4, 4]
