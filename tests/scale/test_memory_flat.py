"""The learner's memory grows with neither vocabulary nor responses, its work linearly in tokens (counted)."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from r1zero.algo.stats import Tally
from r1zero.algo_config import AlgoConfig
from r1zero.batch import Completion, Prompt, Question, RolloutBatch
from r1zero.learn.policy import Policy
from r1zero.learn.step import Learner


def policy_of(vocab: int, hidden: int = 32) -> Policy:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
    )
    return Policy(Qwen2ForCausalLM(config)).train()


def rollout_of(lengths: list[int]) -> tuple[list[Prompt], RolloutBatch]:
    rng = random.Random(0)
    prompts = [Prompt(Question("", ("1",)), "", [1, 2, 3, 4]) for _ in range(len(lengths) // 2)]
    completions = [Completion([rng.randrange(100) for _ in range(n)], "", "stop", [-1.0] * n) for n in lengths]
    advantages = torch.tensor([0.5, -0.5] * len(prompts))
    mask = [c.sampled() for c in completions]
    return prompts, RolloutBatch(completions, 2, 0, advantages, advantages > 0, mask, advantages)


def step(policy: Policy, lengths: list[int], budget: int = 4096) -> None:
    """Forward and backward over one optimizer step's responses, as ``module.py`` makes them."""
    prompts, rollout = rollout_of(lengths)
    algo = AlgoConfig(name="drgrpo", minibatch_size=len(lengths))
    learner = Learner(policy, None, algo, temperature=1.0, constant=64, max_tokens=budget)
    passes = learner.passes(prompts, rollout, range(len(lengths)), torch.device("cpu"))
    for rows, micro in list(passes):
        learner.loss(rollout, rows, micro, None, 0, Tally()).backward()


def peak(policy: Policy, lengths: list[int]) -> int:
    """Most bytes alive besides parameters and their gradients."""
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    known = [t for p in policy.parameters() for t in (p, p.grad) if t is not None]
    with LiveBytes(known) as live:
        step(policy, lengths)
    return live.peak


def test_memory_is_flat_in_the_vocabulary() -> None:
    """Trained layers under a frozen head: logits are never more than a tile, whatever the vocabulary."""
    peaks = []
    for vocab in (32_000, 151_936):
        policy = policy_of(vocab)
        policy.model.get_input_embeddings().weight.requires_grad_(False)
        peaks.append(peak(policy, [150] * 4))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.05)
    assert peaks[1] < 4 * 600 * 151_936, "less than the logits that are never made"


def test_a_trained_head_costs_its_own_gradient_and_nothing_by_the_token() -> None:
    """Head and embedding make one gradient each, both as large as the matrix; that is all that grows.

    The counter holds on to what it counts, so autograd adds the two into a third and not in place, as it does alone.
    """
    small, large = 32_000, 151_936
    grown = peak(policy_of(large), [150] * 4) - peak(policy_of(small), [150] * 4)
    assert grown <= 3.1 * 4 * 32 * (large - small)


def test_summed_in_place_they_cost_nothing_either() -> None:
    """One process needs no gradient beside ``.grad``, which is as large as the matrix."""
    peaks = []
    for vocab in (32_000, 151_936):
        policy = policy_of(vocab)
        policy.sum_gradients()
        peaks.append(peak(policy, [150] * 4))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.05)


def test_memory_is_flat_in_the_responses_of_a_step() -> None:
    policy = policy_of(2000)
    few, many = (peak(policy, [100] * count) for count in (64, 512))
    assert many == pytest.approx(few, rel=0.05)


def test_work_grows_linearly_up_to_8k_tokens() -> None:
    """Operations apart from attention's own; the same without the head's recomputation would be 3/4."""
    policy = policy_of(512)
    sizes, work = (1024, 2048, 4096, 8192), []
    for size in sizes:
        with FlopCounterMode(display=False) as counter:
            step(policy, [size] * 2, budget=8192)
        counts: dict[Any, int] = counter.get_flop_counts()["Global"]
        work.append(sum(n for op, n in counts.items() if "attention" not in str(op) and "bmm" not in str(op)))
    x, y = [math.log(s) for s in sizes], [math.log(w) for w in work]
    mean_x, mean_y = sum(x) / 4, sum(y) / 4
    exponent = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    assert 0.95 < exponent <= 1.1
