"""Counts the bytes of real learners on two gloo ranks: ``python counted_worker.py <settings.json>``; test_counted.py.

Lightning starts the other rank by running this file again. The C library is asked, which knows the blocks of buckets
and collectives too: torch's own profiler does not see what is freed in another thread.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.utils._python_dispatch import TorchDispatchMode
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


class InUse(TorchDispatchMode):
    """Asks the C library after every operation how many bytes are given out, in whatever thread; keeps the most."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, in_use())
        return out


class Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


MALLINFO = ctypes.CDLL(None).mallinfo2
MALLINFO.restype = Mallinfo


def in_use() -> int:
    """Bytes that malloc has given out."""
    info = MALLINFO()
    return int(info.uordblks + info.hblkhd)


class Phases(pl.Callback):
    """Peak bytes of the phases of each rollout step over what there was before the models were made."""

    def __init__(self, counter: InUse, before: int) -> None:
        self.counter, self.before, self.phase = counter, before, "start"
        self.peaks: dict[str, list[int]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for name, phase in (("_old_logprobs", "old"), ("_apply_gradients", "optimizer")):
            setattr(pl_module, name, self.marked(getattr(pl_module, name), phase))

    def on_train_batch_start(self, *args: Any) -> None:
        self.enter("learn")

    def on_train_batch_end(self, *args: Any) -> None:
        gc.collect()
        self.enter("rest")
        self.enter("rest")

    def enter(self, phase: str) -> None:
        self.peaks.setdefault(self.phase, []).append(self.counter.peak - self.before)
        self.phase, self.counter.peak = phase, in_use()

    def marked(self, method: Any, phase: str) -> Any:
        def call(*args: Any) -> Any:
            self.enter(phase)
            out = method(*args)
            self.enter("learn")
            return out

        return call


def counted(settings: dict[str, Any], layout: str) -> dict[str, list[int]]:
    """Peak bytes of every phase in the order of time."""
    gc.collect()
    counter = InUse()
    phases = Phases(counter, in_use())
    policy, frozen = policy_of(settings), None
    if settings["reference"]:
        frozen = Policy(policy_of(settings | {"lora": 0}).model).requires_grad_(False)
    algo = algo_config("grpo", minibatch_size=8, kl_coef=0.1 if frozen else 0.0)
    module = make_module(policy, algo, reference=frozen, micro_batch_tokens=settings["micro_tokens"])
    strategies: dict[str, Any] = {
        "one": lambda: "auto",
        "ddp": lambda: DDPStrategy(gradient_as_bucket_view=True),  # as conf/trainer/ddp.yaml
        "fsdp": ModelParallelStrategy,
    }
    with counter:
        fit(
            module,
            lambda step: random_rollout(step, longest=settings["longest"]),
            settings["steps"],
            devices=1 if layout == "one" else 2,
            precision="bf16-mixed" if settings["dtype"] == "bfloat16" else "32-true",
            strategy=strategies[layout](),
            callbacks=[phases],
        )
    return phases.peaks


def main(settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    report = {name: counted(settings | case, case["layout"]) for name, case in settings["cases"].items()}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        Path(settings["out"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
