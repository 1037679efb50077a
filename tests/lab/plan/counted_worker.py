"""Counts the bytes of real learners on two gloo ranks: ``python counted_worker.py <settings.json>``; test_counted.py.

Lightning starts the other rank by running this file again. torch's own allocator is asked: it reports every block that
it gives out and takes back, those of collectives and of autograd's threads included.
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
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoModelForCausalLM, Qwen2Config

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]

from objective_support import algo_config, fit, make_module, random_rollout  # noqa: E402
from r1zero.config import LoRAConfig  # noqa: E402
from r1zero.learn.lora import add_adapters, keep_adapters_only  # noqa: E402
from r1zero.learn.policy import Policy  # noqa: E402


def policy_of(settings: dict[str, Any]) -> Policy:
    """A Qwen2 of the shape that is asked for, ready to train."""
    torch.manual_seed(0)
    policy = Policy(AutoModelForCausalLM.from_config(Qwen2Config(**settings["model"])).float()).train()
    if settings["lora"]:
        policy.lora = LoRAConfig(rank=settings["lora"])
        add_adapters(policy.model, policy.lora, getattr(torch, settings["dtype"]))
        keep_adapters_only(policy)
    if settings["checkpointing"]:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return policy


class Marks(pl.Callback):
    """Writes into the profile where a phase begins: old log-probabilities, learning, the optimizer's step, rest."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for name, phase in (("_old_logprobs", "old"), ("_apply_gradients", "optimizer")):
            setattr(pl_module, name, self.marked(getattr(pl_module, name), phase))

    def on_train_batch_start(self, *args: Any) -> None:
        mark("learn")

    def on_train_batch_end(self, *args: Any) -> None:
        mark("rest")

    @staticmethod
    def marked(method: Any, phase: str) -> Any:
        def call(*args: Any) -> Any:
            mark(phase)
            out = method(*args)
            mark("learn")
            return out

        return call


def mark(phase: str) -> None:
    with record_function(f"phase {phase}"):
        pass


def counted(settings: dict[str, Any], layout: str) -> dict[str, list[int]]:
    """Peak bytes of every phase in the order of time, as {phase: [...]}; the models before training are counted in."""
    policy = policy_of(settings)
    reference = Policy(policy_of(settings | {"lora": 0}).model).requires_grad_(False) if settings["reference"] else None
    now = sum(p.nbytes for one in (policy, reference) if one is not None for p in one.parameters())
    algo = algo_config("grpo", minibatch_size=8, kl_coef=0.1 if reference else 0.0)
    module = make_module(policy, algo, reference=reference, micro_batch_tokens=settings["micro_tokens"])
    strategies: dict[str, Any] = {
        "one": lambda: "auto",
        "ddp": lambda: DDPStrategy(gradient_as_bucket_view=True),  # as conf/trainer/ddp.yaml
        "fsdp": ModelParallelStrategy,
    }
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        fit(
            module,
            lambda step: random_rollout(step, longest=settings["longest"]),
            settings["steps"],
            devices=1 if layout == "one" else 2,
            precision="bf16-mixed" if settings["dtype"] == "bfloat16" else "32-true",
            strategy=strategies[layout](),
            callbacks=[Marks()],
        )
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    phase, peaks = "start", {"start": [now]}
    for event in events:
        if event.name() == "[memory]":
            now += event.nbytes()
            peaks[phase][-1] = max(now, peaks[phase][-1])
        elif event.name().startswith("phase "):
            phase = event.name().removeprefix("phase ")
            peaks.setdefault(phase, []).append(now)
    return peaks


def main(settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    report = {name: counted(settings | case, case["layout"]) for name, case in settings["cases"].items()}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        Path(settings["out"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
