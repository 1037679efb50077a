"""Trains a policy on fixed rollouts, sharded or not: ``python sharded_worker.py <settings.json>``; see test_fsdp.py.

Lightning starts the other ranks by running this file again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from objective_support import algo_config, fit, make_module, random_policy, random_prompts, random_rollout  # noqa: E402
from r1zero.config import LoRAConfig  # noqa: E402
from r1zero.learn.collate import collate  # noqa: E402
from r1zero.learn.lora import add_adapters, keep_adapters_only  # noqa: E402
from r1zero.learn.policy import Policy  # noqa: E402


def build(settings: dict[str, Any]) -> Policy:
    policy = random_policy(tied=settings["tied"])
    if settings["lora"]:
        policy.lora = LoRAConfig(rank=4)
        torch.manual_seed(0)
        add_adapters(policy.model, policy.lora, getattr(torch, settings["dtype"]))
        keep_adapters_only(policy)
    return policy


def local(parameter: Any) -> torch.Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def main(settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    policy = build(settings)
    algo = algo_config("grpo", minibatch_size=8, kl_coef=0.1)
    reference = Policy(random_policy(seed=1).model).requires_grad_(False)
    module = make_module(policy, algo, reference=reference, lr=2e-3)
    sharded = settings["ranks"] > 1
    history = fit(
        module,
        lambda step: random_rollout(step, std_norm=True, flat_groups=(2, 3) if step == 1 else ()),
        3,
        devices=settings["ranks"],
        precision="bf16-mixed" if settings["dtype"] == "bfloat16" else "32-true",
        strategy=ModelParallelStrategy() if sharded else "auto",
    )
    state = module.trainer.strategy.lightning_module_state_dict()
    with torch.no_grad():  # leaves embedding and head gathered, in the format of compute
        policy(collate(random_prompts(0, 2), random_rollout(0).completions[:2]))
    weights = {name: tensor.clone() for name, tensor in policy.named_weights()}
    trained = [p for p in policy.parameters() if p.requires_grad]
    report = {
        "history": history,
        "dtypes": sorted({str(local(p).dtype) for p in trained}),
        "held": sum(local(p).numel() for p in trained),
        "whole": sum(p.numel() for p in trained),
        "reference": sum(local(p).numel() for p in reference.parameters()),
        "state": sorted(state),
        "units": sorted({type(m).__name__ for m in policy.modules() if isinstance(m, FSDPModule)}),
    }
    if module.global_rank == 0:
        torch.save(weights, settings["out"])
        Path(settings["out"]).with_suffix(".json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
