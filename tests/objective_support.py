"""Tiny random policies, rollouts fixed by a seed, and the objective written a second time as a plain loop.

Weights come from NumPy's frozen ``RandomState`` and rollouts from Python's ``random``: the same numbers on every
machine and with every version of torch, which the goldens need.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from r1zero.algo import advantages as advantages_file
from r1zero.algo_config import AlgoConfig, Correction, LengthNorm
from r1zero.batch import Completion, Prompt, PromptBatch, Question, RolloutBatch
from r1zero.config import OptimConfig, RolloutConfig
from r1zero.learn.module import PolicyGradientModule
from r1zero.learn.policy import Policy

VOCAB = 61


def random_model(
    arch: str = "qwen2",
    *,
    tied: bool = True,
    vocab: int = VOCAB,
    hidden: int = 32,
    layers: int = 2,
    seed: int = 0,
    scale: float = 0.2,
) -> Any:
    """A random causal model in float32 whose distributions are, with the usual scale, far from uniform."""
    config_class = {"qwen2": Qwen2Config, "llama": LlamaConfig}[arch]
    config = config_class(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config).float()
    draws = np.random.RandomState(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.from_numpy(draws.standard_normal(parameter.shape).astype(np.float32))
            parameter.copy_(1 + 0.1 * noise if "norm" in name else scale * noise)
    return model


def random_policy(arch: str = "qwen2", **kwargs: Any) -> Policy:
    policy = Policy(random_model(arch, **kwargs))
    policy.train()
    return policy


def make_prompt(ids: list[int]) -> Prompt:
    return Prompt(Question("q", ("1",)), "q", ids)


def random_prompts(seed: int, questions: int, longest: int = 6) -> list[Prompt]:
    draw = random.Random(f"prompt {seed}")
    return [make_prompt([draw.randrange(1, VOCAB) for _ in range(draw.randint(1, longest))]) for _ in range(questions)]


def random_rollout(
    seed: int,
    questions: int = 4,
    group: int = 4,
    *,
    longest: int = 9,
    shortest: int = 1,
    std_norm: bool = False,
    exclude_truncated: bool = False,
    sampler: bool = False,
    flat_groups: Sequence[int] = (),
    version: int = 0,
) -> RolloutBatch:
    """Responses of unequal length, rewards 0 or 1, a third of them cut by the limit.

    ``flat_groups`` get equal rewards; ``sampler`` adds log-probabilities that no policy gave.
    """
    draw = random.Random(f"rollout {seed}")
    completions, rewards = [], []
    for index in range(questions * group):
        length = draw.randint(shortest, longest)
        ids = [draw.randrange(VOCAB) for _ in range(length)]
        logprobs = [-draw.uniform(0.5, 8.0) for _ in ids]
        reason = "length" if draw.random() < 1 / 3 else "stop"
        completions.append(Completion(ids, "", reason, logprobs if sampler else None))
        # The first two of a group differ, so that only the flat groups have no gradient.
        place = index % group
        reward = float(draw.random() < 0.5) if place > 1 else float(place)
        rewards.append(1.0 if index // group in flat_groups else reward)
    values = torch.tensor(rewards)
    return RolloutBatch(
        completions,
        group,
        version,
        values,
        values > 0.5,
        [c.sampled() & (not (exclude_truncated and c.truncated)) for c in completions],
        # Looked up at the call, so that a test may put a wrong formula in its place.
        advantages_file.group_advantages(values, group, std_norm=std_norm),
    )


def leave_out(rollout: RolloutBatch, *indices: int) -> RolloutBatch:
    """Mask every token of some responses, of all where none is named."""
    for i in indices or range(len(rollout.completions)):
        rollout.mask[i][:] = False
    return rollout


def part(rollout: RolloutBatch, first: int, last: int) -> RolloutBatch:
    """The responses first..last-1, as the rank that holds them sees them."""
    return RolloutBatch(
        rollout.completions[first:last],
        rollout.group_size,
        rollout.version,
        rollout.rewards[first:last],
        rollout.right[first:last],
        rollout.mask[first:last],
        rollout.advantages[first:last],
        credit=None if rollout.credit is None else rollout.credit[first:last],
    )


def algo_config(name: str = "drgrpo", **kwargs: Any) -> AlgoConfig:
    """The four algorithms of the paper and the token mean."""
    norm, std = {
        "grpo": (LengthNorm.response, True),
        "drgrpo": (LengthNorm.constant, False),
        "grpo_no_length_norm": (LengthNorm.constant, True),
        "grpo_no_std_norm": (LengthNorm.response, False),
        "token": (LengthNorm.token, True),
    }[name]
    return AlgoConfig(**{"name": name, "length_norm": norm, "std_norm": std} | kwargs)


def sequence_logprobs(
    model: Any, prompt: list[int], response: list[int], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of one response alone, from transformers' own whole logits."""
    logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0] / temperature
    logp = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return logp[torch.arange(len(response)), torch.tensor(response)], -(logp.exp() * logp).sum(-1)


def plain_loss(
    model: Any,
    prompts: Sequence[Prompt],
    rollout: RolloutBatch,
    minibatch: Sequence[int],
    algo: AlgoConfig,
    *,
    temperature: float,
    constant: float,
    old: dict[int, torch.Tensor] | None = None,
    reference: Any = None,
) -> torch.Tensor:
    """Semantics 3, 4, 7, 8 as a loop over responses and tokens, sharing no code with the product."""
    size = len(minibatch)
    tokens = sum(sum(rollout.mask[i].tolist()) for i in minibatch)
    total = torch.zeros(())
    for i in minibatch:
        trained = rollout.mask[i].tolist()
        if not any(trained):
            continue
        prompt, completion = prompts[i // rollout.group_size], rollout.completions[i]
        logp, entropy = sequence_logprobs(model, prompt.ids, completion.ids, temperature)
        before = logp.detach() if old is None else old[i]
        summed = torch.zeros(())
        for t in (t for t, counts in enumerate(trained) if counts):
            ratio, advantage = torch.exp(logp[t] - before[t]), float(rollout.advantages[i])
            if rollout.credit is not None:
                advantage *= float(rollout.credit[i][t])
            number = ratio.item()
            clipped = min(max(number, 1 - algo.clip_low), 1 + algo.clip_high) * advantage
            value = -(ratio * advantage if number * advantage <= clipped else 0 * ratio.detach() + clipped)
            if algo.sampler_correction is Correction.token:
                assert completion.logprobs is not None
                value = value * min(math.exp(before[t].item() - completion.logprobs[t]), algo.correction_cap)
            if algo.kl_coef:
                with torch.no_grad():
                    fixed, _ = sequence_logprobs(reference, prompt.ids, completion.ids, temperature)
                delta = fixed[t] - logp[t]
                estimate = {"k1": -delta, "k2": delta**2 / 2, "k3": torch.exp(delta) - 1 - delta}
                value = value + algo.kl_coef * estimate[algo.kl_estimator.value]
            summed = summed + value - algo.entropy_coef * entropy[t]
        divisor = {"response": sum(trained) * size, "constant": constant * size, "token": tokens}
        total = total + summed / divisor[algo.length_norm.value]
    return total


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Take the gradients of a model's parameters and clear them."""
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
        parameter.grad = None
    return found


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def furthest(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference between two sets of tensors of the same names."""
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes, forward or backward; views make none."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor) and value._base is None and not shares(value, args):
                self.elements = max(self.elements, value.numel())
        return out


def shares(value: torch.Tensor, arguments: Any) -> bool:
    """Whether a result lies in the memory of one of the arguments."""
    inputs = [a for a in arguments if isinstance(a, torch.Tensor)]
    return any(a.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() for a in inputs)


# -- runs ---------------------------------------------------------------------------------------------------------


def make_module(
    policy: Policy,
    algo: AlgoConfig,
    *,
    reference: Policy | None = None,
    temperature: float = 1.0,
    lr: float = 1e-2,
    eps: float = 1e-4,
    max_grad_norm: float = 1.0,
    micro_batch_tokens: int = 40,
    max_tokens: int = 9,
    total_steps: int = 100,
    sync_tolerance: float = 1e-3,
    seed: int = 3,
    **optim: Any,
) -> PolicyGradientModule:
    """A module over a tiny policy.

    Adam's eps is far above the rounding of float32 gradients: with 1e-8 an update of full size hangs on the
    sign of a gradient that is all rounding, and no two orders of summation would give like weights.
    """
    return PolicyGradientModule(
        policy,
        reference,
        algo,
        OptimConfig(
            name="adamw",
            lr=lr,
            eps=eps,
            max_grad_norm=max_grad_norm,
            micro_batch_tokens=micro_batch_tokens,
            **optim,
        ),
        RolloutConfig(name="fixed", temperature=temperature, max_tokens=max_tokens),
        total_steps=total_steps,
        sync_tolerance=sync_tolerance,
        seed=seed,
    )


class FixedRollouts(pl.Callback):
    """Fills each batch from a function of the rollout step over all ranks' responses; keeps the figures.

    Rank r gets the r-th part, so that the global response numbers are the same for any number of ranks.
    """

    def __init__(self, make: Callable[[int], RolloutBatch]) -> None:
        self.make = make
        self.history: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        whole = self.make(batch.step)
        size = len(whole.completions) // trainer.world_size
        batch.rollout = part(whole, trainer.global_rank * size, (trainer.global_rank + 1) * size)
        if batch.rollout.version == 0:
            batch.rollout.version = pl_module.policy_version

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.history.append(pl_module.step_metrics)


def fit(
    module: PolicyGradientModule,
    make: Callable[[int], RolloutBatch],
    steps: int,
    *,
    questions: int = 4,
    precision: str = "32-true",
    devices: int = 1,
    strategy: Any = "auto",
    callbacks: Sequence[pl.Callback] = (),
) -> list[dict[str, float]]:
    """Train on fixed rollouts and return the figures of each step; ``questions`` counts those of all ranks."""
    fixed = FixedRollouts(make)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[fixed, *callbacks],
    )
    size = questions // trainer.world_size
    first = trainer.global_rank * size
    batches = [PromptBatch(s, 0, random_prompts(s, questions)[first : first + size]) for s in range(steps)]
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))  # type: ignore[arg-type]
    return fixed.history
