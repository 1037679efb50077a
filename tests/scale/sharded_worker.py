"""Trains a policy on fixed rollouts, sharded or not: ``python sharded_worker.py <settings.json>``; see test_fsdp.py.

Lightning starts the other ranks by running this file again.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
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


def alive() -> int:
    """Bytes of floating-point numbers that Python's tensors hold, shared storage once."""
    gc.collect()
    found = [local(x) for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    plain = [x for x in found if type(x) in (torch.Tensor, torch.nn.Parameter) and x.is_floating_point()]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in plain}.values())


class Counted(pl.Callback):
    """Bytes of this rank at the start of a later rollout step and before an optimizer step of it."""

    def __init__(self) -> None:
        self.sampling = self.optimizer = 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        apply = pl_module._apply_gradients

        def counted(*arguments: Any) -> None:
            self.optimizer = alive()
            apply(*arguments)

        pl_module._apply_gradients = counted

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.sampling = alive()


def main(settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    policy = build(settings)
    algo = algo_config("grpo", minibatch_size=8, kl_coef=0.1)
    reference = Policy(random_policy(seed=1, tied=settings["tied"]).model).requires_grad_(False)
    module = make_module(policy, algo, reference=reference, lr=2e-3)
    counted = Counted()
    strategies: dict[str, Any] = {
        "ddp": lambda: DDPStrategy(gradient_as_bucket_view=True),
        "fsdp": ModelParallelStrategy,
    }
    layout = settings["layout"] if settings["ranks"] > 1 else None
    history = fit(
        module,
        lambda step: random_rollout(step, std_norm=True, flat_groups=(2, 3) if step == 1 else ()),
        3,
        devices=settings["ranks"],
        precision="bf16-mixed" if settings["dtype"] == "bfloat16" else "32-true",
        strategy=strategies[layout]() if layout else "auto",
        callbacks=[counted],
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
        "sampling": counted.sampling,
        "optimizer": counted.optimizer,
        "state": sorted(state),
        "units": sorted({type(m).__name__ for m in policy.modules() if isinstance(m, FSDPModule)}),
    }
    if module.global_rank == 0:
        torch.save(weights, settings["out"])
        Path(settings["out"]).with_suffix(".json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
