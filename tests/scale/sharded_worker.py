"""Trains policies on fixed rollouts, sharded or not: ``python sharded_worker.py <settings.json>``; see test_fsdp.py.

Lightning starts the other ranks by running this file again; they train one policy after the other.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from live_bytes import LiveBytes  # noqa: E402

from objective_support import algo_config, fit, make_module, random_prompts, random_rollout  # noqa: E402
from r1zero.batch import RolloutBatch  # noqa: E402
from r1zero.config import LoRAConfig, ModelConfig  # noqa: E402
from r1zero.launch.run_folder import is_main_rank  # noqa: E402
from r1zero.learn import offload  # noqa: E402
from r1zero.learn.collate import collate  # noqa: E402
from r1zero.learn.policy import Policy  # noqa: E402
from r1zero.rollout.sync import CheckedWeights, expected_parameters  # noqa: E402


def build(settings: dict[str, Any], name: str) -> Policy:
    """Policy or reference of a folder; under FSDP only rank 0 reads the weights."""
    torch.manual_seed(0)
    cfg = ModelConfig(
        name="tiny",
        path=settings[name],
        dtype=settings["dtype"],
        reference_dtype=settings["dtype"],
        gradient_checkpointing=settings["checkpointing"],
        lora=LoRAConfig(rank=4 if settings["lora"] else 0),
    )
    meta = settings["layout"] == "fsdp" and not is_main_rank()
    return Policy.from_folder(Path(cfg.path), cfg, trainable=name == "policy", meta=meta)


def local(parameter: Any) -> torch.Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def numbers() -> list[torch.Tensor]:
    """Tensors of floating-point numbers that Python holds; what is away in the host's memory is bytes."""
    gc.collect()
    found = [local(x) for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    return [x for x in found if type(x) in (torch.Tensor, torch.nn.Parameter) and x.is_floating_point()]


def alive() -> int:
    """Their bytes, shared storage once."""
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in numbers()}.values())


def saved(policy: Policy) -> int:
    """Bytes that a forward pass over 96 tokens keeps for its backward pass, parameters apart."""
    prompts, rollout = random_prompts(2, 1), random_rollout(2, 1, 2)
    completion = dataclasses.replace(rollout.completions[0], ids=[7] * (96 - len(prompts[0].ids)), logprobs=None)
    weights = {local(p).untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if (at := tensor.untyped_storage().data_ptr()) not in weights:
            kept[at] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = policy(collate(prompts, [completion]))  # held, so that no storage is used twice
    assert out[0].shape == (1, 96 - len(prompts[0].ids))
    return sum(kept.values())


def as_read(policy: Policy, settings: dict[str, Any]) -> bool:
    """Whether a sharded policy has, to the last bit, the weights a process reads by itself; all ranks take part."""
    alone = build({**settings, "layout": "ddp"}, "policy")
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in policy.parameters()]
    return all(torch.equal(a, b) for a, b in zip(whole, alone.parameters(), strict=True))


class Counted(pl.Callback):
    """Bytes of this rank: of a start with weights that come from rank 0, and in the phases of a later rollout step."""

    def __init__(self, loading: LiveBytes, settings: dict[str, Any]) -> None:
        self.start, self.settings = (loading.peak, loading.now), settings
        self.as_read = False
        self.sampling = self.sending = self.reference_pass = self.old = self.learning = self.optimizer = self.tokens = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning asks for shards after this hook."""
        configure, step, apply = pl_module.configure_model, pl_module._optimizer_step, pl_module._apply_gradients
        old_logprobs = pl_module._old_logprobs
        peak, loaded = self.start

        def configured() -> None:
            with LiveBytes() as live:
                configure()
            self.start = max(peak, loaded + live.peak), live.now
            self.as_read = as_read(pl_module.policy, self.settings)

        def stepped(batch: Any, *arguments: Any) -> float:
            if batch.step < 2:
                return float(step(batch, *arguments))
            self.tokens = 0
            with LiveBytes(base=numbers()) as self.live:
                return float(step(batch, *arguments))

        def measured(batch: Any, *arguments: Any) -> Any:
            if batch.step < 2:
                return old_logprobs(batch, *arguments)
            with LiveBytes(base=numbers()) as live:
                found = old_logprobs(batch, *arguments)
            self.old = live.peak
            return found

        def applied(*arguments: Any) -> None:
            self.optimizer = alive()
            if hasattr(self, "live"):
                self.learning = max(self.learning, self.live.peak)
            apply(*arguments)

        def note(module: Any, arguments: Any) -> None:
            self.tokens = max(self.tokens, arguments[0].input_ids.numel())

        pl_module.configure_model, pl_module._optimizer_step, pl_module._apply_gradients = configured, stepped, applied
        pl_module._old_logprobs = measured
        pl_module.policy.register_forward_pre_hook(note)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        pl_module.make_room()  # as an engine that wakes does
        self.sampling = alive()
        if arguments[0].step < 2:
            return
        expected = expected_parameters(self.settings["policy"])
        with LiveBytes(base=numbers()) as live:
            sent = CheckedWeights(pl_module.policy.named_weights(), expected, getattr(torch, self.settings["dtype"]))
            for weight in sent:  # an engine copies each into its own
                assert weight
            del weight
        sent.verify(0)
        self.sending = live.peak
        with LiveBytes(base=numbers()) as live:  # as with a KL term in the reward
            pl_module.response_kl(arguments[0])
        self.reference_pass = live.peak


def main(settings: dict[str, Any]) -> None:
    """Train one policy and report its bytes."""
    with LiveBytes() as loading:
        policy, reference = build(settings, "policy"), build(settings, "reference")
    algo = algo_config("grpo", minibatch_size=settings["minibatch"], inner_epochs=settings["epochs"], kl_coef=0.1)
    offload.STAY = frozenset()  # this CPU stands in for a card
    shortest, longest = settings["responses"]
    module = make_module(
        policy,
        algo,
        reference=reference,
        lr=2e-3,
        max_tokens=longest,
        micro_batch_tokens=settings["micro_batch_tokens"],
        offload_states=settings["offload"],
        context_parallel=min(settings["context"], settings["ranks"]),
    )
    counted = Counted(loading, settings)
    strategies: dict[str, Any] = {
        "ddp": lambda: DDPStrategy(gradient_as_bucket_view=True),
        "fsdp": ModelParallelStrategy,
    }
    layout = settings["layout"] if settings["ranks"] > 1 else None

    def rollout(step: int) -> RolloutBatch:
        flat = (2, 3) if step == 1 else ()
        return random_rollout(step, std_norm=True, flat_groups=flat, shortest=shortest, longest=longest)

    history = fit(
        module,
        rollout,
        3,
        devices=settings["ranks"],
        precision="bf16-mixed" if settings["dtype"] == "bfloat16" else "32-true",
        strategy=strategies[layout]() if layout else "auto",
        callbacks=[counted],
    )
    state = module.trainer.strategy.lightning_module_state_dict()
    with torch.no_grad():  # leaves embedding and head gathered, in the format of compute
        policy(collate(random_prompts(0, 2), random_rollout(0).completions[:2]))
    kept = saved(policy)
    weights = {name: tensor.clone() for name, tensor in policy.named_weights()}
    trained = [p for p in policy.parameters() if p.requires_grad]
    report = {
        "history": history,
        "dtypes": sorted({str(local(p).dtype) for p in trained}),
        "held": sum(local(p).numel() for p in trained),
        "whole": sum(p.numel() for p in trained),
        "reference": sum(local(p).numel() for p in reference.parameters()),
        "start": counted.start[0],
        "as_read": counted.as_read,
        "sampling": counted.sampling,
        "sending": counted.sending,
        "reference_pass": counted.reference_pass,
        "old": counted.old,
        "learning": counted.learning,
        "optimizer": counted.optimizer,
        "tokens": counted.tokens,
        "state": sorted(state),
        "saved": kept,
        "units": sorted({type(m).__name__ for m in policy.modules() if isinstance(m, FSDPModule)}),
    }
    out = Path(settings["out"])
    out.with_suffix(f".{module.global_rank}.json").write_text(json.dumps(report))
    if module.global_rank == 0:
        torch.save(weights, out)
    module.trainer.strategy.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in json.loads(Path(sys.argv[1]).read_text()):
        gc.collect()
        gc.freeze()  # what imports and the one before left is neither looked at nor counted
        main(each)
