"""Real ranks: two gloo processes through Lightning take the same steps as one (semantics 5, 10; traps 4, 13)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from objective_support import furthest, random_policy
from r1zero.launch.rank_watch import ORPHAN
from run_support import ROOT, Server, assert_no_orphans

STEPS = 4


def train(
    server: Server, folder: Path, algo: str, ranks: int, strategy: str
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    out = folder / f"{algo}_{ranks}_{strategy}.pt"
    settings: dict[str, Any] = {"algo": algo, "ranks": ranks, "strategy": strategy, "steps": STEPS, "out": str(out)}
    if algo == "drgrpo":
        settings["kl_coef"] = 0.1
    file = folder / f"{out.stem}.settings.json"
    file.write_text(json.dumps(settings))
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
    done = server.run([str(file)], folder, env={"PYTHONPATH": paths}, script="tests/launch/ranks_worker.py")
    assert done.code == 0, done.err[-3000:]
    return torch.load(out, weights_only=True), json.loads(out.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def one_rank(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ranks")
    found = {algo: train(server, folder, algo, 1, "auto") for algo in ("token", "drgrpo")}
    return folder, found


RANK = """
import time
from r1zero.launch import rank_watch as ranks
ranks.GRACE_SECONDS = 0.1
with ranks.watched_ranks(print):
    print("here", flush=True)
    time.sleep(600)  # as in a collective that nobody else will join
"""
PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=os.environ | {"LOCAL_RANK": "1", "RANK": "1"})
time.sleep(600)
"""


def test_a_rank_ends_with_the_one_that_started_it() -> None:
    """Issue 6, item 6: also where the backend would wait on for half an hour, as NCCL does."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, RANK],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline() == "here\n"
        parent.kill()
        _, errors = parent.communicate(timeout=60)  # until the rank's end of the pipes is closed as well
        assert errors == f"[rank 1] error: {ORPHAN}\n"
        assert_no_orphans(parent.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("algo", "strategy"), [("token", "ddp"), ("drgrpo", "ddp"), ("token", "fsdp")], ids=lambda value: str(value)
)
def test_two_ranks_make_the_weights_of_one(server: Server, one_rank: Any, algo: str, strategy: str) -> None:
    """Four rollout steps of two optimizer steps over the same responses: weights to 1e-6, figures to rounding.

    In the second step one rank holds no response with an advantage, in the third neither does; ranks need
    different numbers of forward passes throughout. "token" needs the token count of both ranks; "drgrpo"
    runs with a KL term.
    """
    folder, found = one_rank
    weights, history = found[algo]
    moved = furthest(weights, {n: p.detach() for n, p in random_policy().model.named_parameters()})
    assert moved > 1e-3
    parallel, parallel_history = train(server, folder, algo, 2, strategy)
    assert furthest(weights, parallel) < 1e-6
    for one, two in zip(history, parallel_history, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if not name.startswith(("time/", "throughput/")):
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6, nan_ok=True), name
