"""Trains on fixed rollouts over any number of ranks: ``python ranks_worker.py <settings.json>``; see the test.

Lightning starts the other ranks by running this file again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from objective_support import algo_config, fit, make_module, random_policy, random_rollout
from r1zero.algo_config import AlgoConfig
from r1zero.batch import RolloutBatch
from r1zero.learn.policy import Policy


def rollouts(step: int, algo: AlgoConfig) -> RolloutBatch:
    """Step 0: nothing flat; step 1: all of the second half, so that one of two ranks has no gradient; step 2: all."""
    flat = {0: (), 1: (2, 3), 2: (0, 1, 2, 3)}.get(step, (1,))
    return random_rollout(step, std_norm=algo.std_norm, exclude_truncated=step == 0, flat_groups=flat)


def strategy_of(name: str) -> Any:
    if name == "fsdp":
        from pytorch_lightning.strategies import ModelParallelStrategy

        return ModelParallelStrategy(data_parallel_size="auto", tensor_parallel_size="auto")
    return name


def main(settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    algo = algo_config(settings["algo"], minibatch_size=8, kl_coef=settings.get("kl_coef", 0.0))
    policy = random_policy()
    reference = Policy(random_policy(seed=1).model).requires_grad_(False) if algo.kl_coef else None
    module = make_module(policy, algo, reference=reference, lr=2e-3)
    history = fit(
        module,
        lambda step: rollouts(step, algo),
        settings["steps"],
        devices=settings["ranks"],
        strategy=strategy_of(settings["strategy"]),
    )
    weights = {name: tensor.clone() for name, tensor in policy.named_weights()}
    if module.global_rank == 0:
        torch.save(weights, settings["out"])
        Path(settings["out"]).with_suffix(".json").write_text(json.dumps(history))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
