"""Real ranks: two gloo processes through Lightning take the same steps as one (semantics 5, 10; traps 4, 13)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from objective_support import furthest, random_policy

WORKER = Path(__file__).with_name("ranks_worker.py")
STEPS = 4


def train(folder: Path, algo: str, ranks: int, strategy: str) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    out = folder / f"{algo}_{ranks}_{strategy}.pt"
    settings: dict[str, Any] = {"algo": algo, "ranks": ranks, "strategy": strategy, "steps": STEPS, "out": str(out)}
    if algo == "drgrpo":
        settings["kl_coef"] = 0.1
    file = folder / f"{out.stem}.settings.json"
    file.write_text(json.dumps(settings))
    # A test of one process may have left its own rank in the environment.
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK")}
    done = subprocess.run(
        [sys.executable, str(WORKER), str(file)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True), json.loads(out.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ranks")
    found = {algo: train(folder, algo, 1, "auto") for algo in ("token", "drgrpo")}
    return folder, found


@pytest.mark.parametrize(
    ("algo", "strategy"), [("token", "ddp"), ("drgrpo", "ddp"), ("token", "fsdp")], ids=lambda value: str(value)
)
def test_two_ranks_make_the_weights_of_one(one_rank: Any, algo: str, strategy: str) -> None:
    """Four rollout steps of two optimizer steps over the same responses: weights to 1e-6, figures to rounding.

    In the second step one rank holds no response with an advantage, in the third neither does; ranks need
    different numbers of forward passes throughout. "token" needs the token count of both ranks; "drgrpo"
    runs with a KL term.
    """
    folder, found = one_rank
    weights, history = found[algo]
    moved = furthest(weights, {n: p.detach() for n, p in random_policy().model.named_parameters()})
    assert moved > 1e-3
    parallel, parallel_history = train(folder, algo, 2, strategy)
    assert furthest(weights, parallel) < 1e-6
    for one, two in zip(history, parallel_history, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if not name.startswith(("time/", "throughput/")):
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6, nan_ok=True), name
