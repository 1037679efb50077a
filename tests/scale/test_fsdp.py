"""Sharded training on two gloo ranks: the weights of one process, float32 masters, whole checkpoints (traps 42, 54)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from objective_support import furthest, random_policy
from r1zero.lab.plan.cost import Learner, Work, phases
from r1zero.lab.plan.hardware import shape_of
from run_support import SMALL, Server, checkpoint, differing, status, table


def trained(
    server: Server, folder: Path, ranks: int, **settings: Any
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and report of a worker."""
    settings = {"tied": True, "lora": False, "dtype": "float32", "layout": "fsdp"} | settings
    out = folder / f"{ranks}.pt"
    file = folder / f"{ranks}.settings.json"
    file.write_text(json.dumps(settings | {"ranks": ranks, "out": str(out)}))
    done = server.run([str(file)], folder, script="tests/scale/sharded_worker.py")
    assert done.code == 0, done.err[-3000:]
    return torch.load(out, weights_only=True), json.loads(out.with_suffix(".json").read_text())


@pytest.mark.parametrize(
    ("settings", "rounding"),
    [
        ({"tied": False}, 0.0),
        ({"lora": True}, 0.0),
        ({"dtype": "bfloat16"}, 0.3),
        ({"lora": True, "dtype": "bfloat16"}, 0.3),
    ],
    ids=["untied", "lora", "bfloat16", "lora-bfloat16"],
)
def test_two_shards_make_the_weights_of_one_process(
    server: Server, tmp_path: Path, settings: Any, rounding: float
) -> None:
    """Three rollout steps of two optimizer steps with a KL term; ranks need different numbers of passes.

    Each rank holds half of policy and reference; what it trains is float32 whatever compute is in, and a
    pass without backward leaves no copy where the masters are looked for. In bfloat16 the sharded residual
    stream is rounded and the other is not; updates still go the same way.
    """
    start = random_policy(tied=settings.get("tied", True)).model.state_dict()
    one, single = trained(server, tmp_path, 1, **settings)
    two, report = trained(server, tmp_path, 2, **settings)
    assert furthest(one, two) < (1e-2 if rounding else 1e-6)
    if rounding:
        moved = sum(float((one[n] - start[n]).abs().sum()) for n in one)
        apart = sum(float((one[n] - two[n]).abs().sum()) for n in one)
        assert apart < rounding * moved
    assert report["dtypes"] == ["torch.float32"]
    assert report["held"] == pytest.approx(report["whole"] / 2, rel=0.1)
    assert report["reference"] < 0.6 * single["reference"]
    if not settings.get("lora"):
        check_bytes(report, tmp_path, Learner("fsdp", 2), settings.get("tied", True))
    assert report["state"] == single["state"]
    assert ("FSDPEmbedding" in report["units"]) == (not settings.get("tied", True)), "gathered apart from the head"
    assert bool(settings.get("lora")) == all(".lora_" in name for name in report["state"])
    for a, b in zip(single["history"], report["history"], strict=True):
        for name in ("policy/grad_norm", "loss/policy", "loss/kl", "policy/entropy"):
            assert b[name] == pytest.approx(a[name], rel=rounding or 1e-4, abs=rounding / 50 or 1e-6), name


def check_bytes(report: dict[str, Any], folder: Path, learner: Learner, tied: bool) -> None:
    """The plan's bytes of a rank while the engine samples and in the optimizer's step, within 3 % of those counted."""
    random_policy(tied=tied).model.config.save_pretrained(folder)
    work = Work(16, 5.0, 9, 4.0, 9.0, 16, optimizer_steps=2, passes=1, micro_tokens=40, reference=True)
    planned = phases(shape_of(str(folder)), learner, work, {}, sleep=False)
    assert report["sampling"] == pytest.approx(planned["the engine samples"], rel=0.03)
    assert report["optimizer"] == pytest.approx(planned["the optimizer's step"], rel=0.03)


@pytest.mark.parametrize("ranks", [1, 2])
def test_replicas_have_the_bytes_of_the_plan(server: Server, tmp_path: Path, ranks: int) -> None:
    """DDP keeps its gradients while the engine samples; one device alone lets go of them."""
    _, report = trained(server, tmp_path, ranks, layout="ddp", tied=False)
    check_bytes(report, tmp_path, Learner("ddp", ranks), tied=False)


FSDP = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "eval.at_start=false", "eval.every=0"]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
def test_a_sharded_run_resumes_exactly(server: Server, tmp_path: Path, lora: bool) -> None:
    """Its checkpoint is one file in the layout of the other trainers; four steps are two and two."""
    more = ["model.lora.rank=4"] if lora else []
    for name, steps in (("whole", 4), ("cut", 2)):
        done = server.run([*SMALL, *FSDP, *more, f"steps={steps}", f"hydra.run.dir={tmp_path / name}"], tmp_path)
        assert done.code == 0, done.err
    done = server.run(["resume=cut", "steps=4"], tmp_path)
    assert done.code == 0, done.err
    assert status(tmp_path / "cut")["state"] == "finished"
    one, two = checkpoint(tmp_path / "whole", 4), checkpoint(tmp_path / "cut", 4)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "r1zero"):
        assert differing(one[key], two[key], key) == []
    assert all(".lora_" in name for name in one["state_dict"]) == lora
    assert table(tmp_path / "whole")[:4] == table(tmp_path / "cut")[:4]
    policies = [load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("whole", "cut")]
    assert differing(*policies) == []
    if not lora:
        exported = policies[0]
        assert all(torch.equal(one["state_dict"][f"policy.model.{name}"], exported[name]) for name in exported)


@pytest.mark.slow
@pytest.mark.vllm
def test_a_sharded_run_with_vllm(server: Server, tmp_path: Path) -> None:
    """Each rank's engine is given every weight, gathered one at a time: sampler and learner agree (traps 40, 44)."""
    settings = ["rollout=vllm", "rollout.enforce_eager=true", "rollout.kv_cache_gib=0.1", "steps=2"]
    done = server.run([*SMALL, *settings, *FSDP, f"hydra.run.dir={tmp_path / 'run'}"], tmp_path)
    assert done.code == 0, done.err
    rows = [row for row in table(tmp_path / "run") if "sync/logprob_diff_mean" in row]
    assert len(rows) == 2
    assert all(0 < float(row["sync/logprob_diff_mean"]) < 1e-5 for row in rows)
