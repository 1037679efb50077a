"""Engines of several ranks beside the trainer's process group (trap 44), in processes started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.vllm
def test_two_ranks(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Each rank samples by its own seed (trap 30), and the trainer's group outlives engines and their end.

    Then both share one engine, whose model is cut over them (rollout.tensor_parallel=2): together they sample what an
    engine with the whole model samples for their prompts, each gets its own, and neither waits for the other where it
    has none or where a prompt is refused.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1] / "src")]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(HERE / "rank_worker.py"), str(folders["tied"]), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zero["own"] != one["own"]
    assert zero["common"] == one["common"]
    assert zero["whole"] == one["whole"] == [*zero["shares"], *one["shares"]]
    assert (zero["told"], one["told"]) == ([0], [0, 1])
    assert zero["rows"] == one["rows"] == [160], "of 320 in the vocabulary"
    assert (len(zero["second"]), len(one["second"])) == (0, 1)
    assert "prompt 1 has" in zero["refused"] == one["refused"]
    assert [report["rank"] for report in (zero, one)] == ["0", None], "the environment is put back"
    for report in (zero, one):
        assert report["sums"] == [3.0] * 5
        assert max(report["gap"], report["joint_gap"]) < 1e-5
