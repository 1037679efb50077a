"""Two and four gloo ranks: the weights of one process, the plan's bytes, whole checkpoints (traps 42, 54)."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from objective_support import furthest, random_policy
from r1zero.algo import logprobs
from r1zero.config import LoRAConfig
from r1zero.lab.plan import memory
from r1zero.lab.plan.cost import Learner, Work
from r1zero.lab.plan.hardware import shape_of
from run_support import SMALL, Server, checkpoint, differing, status, table

PLAIN: dict[str, Any] = {
    "tied": True,
    "lora": False,
    "dtype": "float32",
    "layout": "fsdp",
    "offload": False,
    "context": 1,
    "checkpointing": False,
    "minibatch": 8,
    "epochs": 1,
    "micro_batch_tokens": 40,
    "responses": (1, 9),
    "size": {},
}
LARGER: dict[str, Any] = {
    "minibatch": 16,
    "epochs": 2,
    "micro_batch_tokens": 140,
    "responses": (60, 60),
    "size": {"hidden": 128, "layers": 4, "vocab": 1000, "scale": 0.05},
}
"""Large enough that activations and logits are what the plan's formulas count; the head is one tile on a CPU."""


Trained = tuple[dict[str, torch.Tensor], list[dict[str, Any]]]
"""Weights, and the ranks' reports."""


def trained(server: Server, folder: Path, ranks: int, *each: dict[str, Any]) -> list[Trained]:
    """What a worker makes of settings, one after the other in the same processes."""
    made = []
    for number, settings in enumerate(each):
        own = folder / str(number)
        settings = PLAIN | settings | {"ranks": ranks, "out": str(own / f"{ranks}.pt")}
        for seed, name in enumerate(("policy", "reference")):
            settings[name] = str(own / name)
            random_policy(seed=seed, tied=settings["tied"], **settings["size"]).model.save_pretrained(own / name)
        made.append(settings)
    file = folder / f"{ranks}.settings.json"
    file.write_text(json.dumps(made))
    done = server.run([str(file)], folder, script="tests/scale/sharded_worker.py")
    assert done.code == 0, done.err[-3000:]
    outs = [Path(settings["out"]) for settings in made]
    reports = [[json.loads(out.with_suffix(f".{rank}.json").read_text()) for rank in range(ranks)] for out in outs]
    return [(torch.load(out, weights_only=True), each) for out, each in zip(outs, reports, strict=True)]


@pytest.mark.parametrize(
    ("settings", "rounding"),
    [
        (LARGER | {"ranks": 4, "tied": False, "checkpointing": True}, 0.0),
        ({"lora": True, "context": 2}, 0.0),
        (LARGER | {"dtype": "bfloat16", "offload": True}, 0.3),
        (LARGER | {"lora": True, "dtype": "bfloat16", "offload": True}, 0.3),
    ],
    ids=["four-untied", "lora", "bfloat16", "lora-bfloat16"],
)
def test_shards_make_the_weights_of_one_process(
    server: Server, tmp_path: Path, settings: dict[str, Any], rounding: float
) -> None:
    """Three rollout steps of two optimizer steps with a KL term; ranks need different numbers of passes.

    Each rank holds its share of policy and reference; what it trains is float32 whatever compute is in, and a
    pass without backward leaves no copy where the masters are looked for. In bfloat16 the sharded residual
    stream is rounded and the other is not; updates still go the same way.
    """
    ranks, settings = settings.get("ranks", 2), {name: settings[name] for name in settings if name != "ranks"}
    [(one, [single])] = trained(server, tmp_path, 1, settings)
    [(two, reports)] = trained(server, tmp_path, ranks, settings)
    report = reports[0]
    assert furthest(one, two) < (1e-2 if rounding else 5e-6)
    start = random_policy(tied=settings.get("tied", True), **settings.get("size", {})).model.state_dict()
    if rounding:
        moved = sum(float((one[n] - start[n]).abs().sum()) for n in one)
        apart = sum(float((one[n] - two[n]).abs().sum()) for n in one)
        assert apart < rounding * moved
    assert report["dtypes"] == ["torch.float32"]
    assert report["held"] == pytest.approx(report["whole"] / ranks, rel=0.1)
    assert report["reference"] < 1.2 / ranks * single["reference"]
    if settings.get("size"):
        check_bytes([single], tmp_path / "0", settings)
        check_bytes(reports, tmp_path / "0", settings)
    check_start(reports, start, settings.get("lora", False))
    if settings.get("context"):
        assert report["saved"] < 0.75 * single["saved"], "half of the activations; beside them gathered weights"
    assert report["state"] == single["state"]
    assert ("FSDPEmbedding" in report["units"]) == (not settings.get("tied", True)), "gathered apart from the head"
    assert bool(settings.get("lora")) == all(".lora_" in name for name in report["state"])
    for a, b in zip(single["history"], report["history"], strict=True):
        for name in ("policy/grad_norm", "loss/policy", "loss/kl", "policy/entropy"):
            assert b[name] == pytest.approx(a[name], rel=rounding or 1e-4, abs=rounding / 50 or 1e-6), name


def check_start(reports: list[dict[str, Any]], weights: dict[str, torch.Tensor], lora: bool) -> None:
    """Rank 0 reads two models; all others hold their shards and one group more at most, never a whole model."""
    groups: Counter[str] = Counter()
    for name, tensor in weights.items():
        layer = re.search(r"layers\.\d+", name)
        groups[layer[0] if layer else "rest"] += tensor.nbytes
    whole = groups.total()
    assert all(report["as_read"] for report in reports), "to the last bit, though only rank 0 reads the files"
    assert reports[0]["start"] > 1.3 * whole, "adapters: both models rounded once they are read"
    for report in reports[1:]:
        assert report["start"] < reports[0]["start"]
        if not lora:  # adapters are made on every rank
            assert report["start"] < 1.02 * (2 * whole / len(reports) + max(groups.values()))


PHASES = {
    "sampling": "the engine samples",
    "sending": "weights to the engine",
    "reference_pass": "reference log-probabilities",
    "old": "old log-probabilities",
    "learning": "forward and backward",
    "optimizer": "the optimizer's step",
}


@pytest.fixture(autouse=True)
def _tile_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "TILE", logprobs.TILE["cpu"])


def check_bytes(reports: list[dict[str, Any]], folder: Path, settings: dict[str, Any]) -> None:
    """The plan's bytes of a rank in every phase, within 3 % of those counted on each."""
    settings = PLAIN | settings
    shape, half = shape_of(str(folder / "policy")), 2 if settings["dtype"] == "bfloat16" else 4
    layout = settings["layout"] if len(reports) > 1 else "ddp"
    if settings["lora"]:
        layout = {"ddp": "lora", "fsdp": "fsdp-lora"}[layout]
    learner = Learner(
        layout,
        len(reports),
        half == 2,
        settings["checkpointing"],
        adapters=shape.adapters(4, LoRAConfig().targets) if settings["lora"] else 0,
        offload=settings["offload"],
    )
    tokens = max(report["tokens"] for report in reports)
    sizes: dict[str, Any] = {"optimizer_steps": 2, "passes": 1, "micro_tokens": tokens, "engine_wide": half}
    work = Work(16, 5.0, 9, 4.0, 9.0, 16, reference=half, kl_in_reward=True, **sizes)
    planned = memory.phases(shape, learner, work, {}, sleep=False)
    for rank, report in enumerate(reports):
        for key, name in PHASES.items():
            assert report[key] == pytest.approx(planned[name], rel=0.03), (name, rank, learner)


DDP: dict[str, Any] = LARGER | {"layout": "ddp", "tied": False}


def test_replicas_have_the_bytes_of_the_plan(server: Server, tmp_path: Path) -> None:
    """DDP keeps its gradients while the engine samples; one device alone lets go of them, and so does offload.

    Whether states leave or stay changes no bit of the weights.
    """
    [(_, reports)] = trained(server, tmp_path, 1, DDP)
    check_bytes(reports, tmp_path / "0", DDP)
    both = DDP, DDP | {"offload": True}
    stayed, left = trained(server, tmp_path, 2, *both)
    for number, (_, reports) in enumerate((stayed, left)):
        check_bytes(reports, tmp_path / str(number), both[number])
    assert differing(stayed[0], left[0]) == []


FOUR: dict[str, dict[str, Any]] = {
    "DDP": DDP,
    "FSDP, activations kept": LARGER | {"tied": False},
    "FSDP, adapters": LARGER | {"lora": True, "checkpointing": True},
    "FSDP, adapters in bfloat16": LARGER | {"lora": True, "dtype": "bfloat16", "tied": False},
}


def test_four_ranks_have_the_bytes_of_the_plan(server: Server, tmp_path: Path) -> None:
    """Replicas, shards, and adapters over shards: every phase on every rank; the same four processes for all."""
    for number, (_, reports) in enumerate(trained(server, tmp_path, 4, *FOUR.values())):
        assert len(reports) == 4
        check_bytes(reports, tmp_path / str(number), list(FOUR.values())[number])


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
