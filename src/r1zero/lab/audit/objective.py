"""Advantages and losses by plain loops, from the definitions (semantics 1-4, 7, 8); nothing of ``r1zero.algo``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

Number = Any
"""A float, or a scalar tensor with gradient."""


OWN = {"group", "leave_one_out", "batch_norm", "group_then_batch_norm", "group_mean_batch_std", "mean_norm"}
"""Values of ``algo.advantage`` that are recomputed; any other is a function of the user's own."""


def advantages(rewards: list[float], trained: list[int], group_size: int, algo: dict[str, Any]) -> list[float] | None:
    """Advantage of each response; None where the run used a function of the user's own.

    Args:
        rewards: of all responses of the rollout step, group after group.
        trained: tokens of each response that are trained on.
        group_size: G.
        algo: the run's settings of the objective.
    """
    kind, found = algo["advantage"], []
    if kind not in OWN:
        return None
    for first in range(0, len(rewards), group_size):
        group = rewards[first : first + group_size]
        mean = sum(group) / group_size
        for r in group:
            others = (sum(group) - r) / (group_size - 1)
            baseline = {"leave_one_out": others, "batch_norm": 0.0}.get(kind, mean)
            divisor = 1.0
            if kind == "group" and algo["std_norm"]:
                divisor = deviation(group, [1] * group_size) + 1e-8
            if kind == "mean_norm":
                divisor = mean or 1.0
            equal = min(group) == max(group) and kind != "batch_norm"  # rounding is not a difference
            found.append(0.0 if equal else (r - baseline) / divisor)
    if kind in ("batch_norm", "group_then_batch_norm"):
        mean = sum(w * a for w, a in zip(trained, found, strict=True)) / max(sum(trained), 1)
        divisor = deviation(found, trained)
        return [(a - mean) / (divisor + 1e-8) if divisor > 1e-9 * abs(mean) else 0.0 for a in found]
    if kind == "group_mean_batch_std":
        divisor = deviation(rewards, [1] * len(rewards)) + 1e-8
        return [a / divisor for a in found]
    return found


def deviation(values: list[float], weights: list[int]) -> float:
    """Standard deviation of values that count ``weights`` times each, divisor one less than their number."""
    count = sum(weights)
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / max(count, 1)
    squares = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))
    return math.sqrt(squares / max(count - 1, 1))


def overlong(tokens: int, limit: int, part: float) -> float:
    """What is taken off the reward of a response in the last ``part`` of the limit: 0 to 1, linearly."""
    if not part:
        return 0.0
    return min(max((tokens - (1 - part) * limit) / (part * limit), 0.0), 1.0)


@dataclass
class Tokens:
    """One response under one policy: values per generated token."""

    new: list[Number]
    old: list[float]
    sampler: list[float] | None
    reference: list[float] | None
    entropy: list[Number]
    advantage: list[float]
    """The response's advantage times the token's credit."""
    mask: list[bool]


@dataclass
class Share:
    """What one response adds to the loss of an optimizer step."""

    policy: Number
    kl: Number
    entropy: Number
    size: float
    """Sum of the absolute values of the terms of ``policy``: what its rounding is relative to."""
    kl_values: list[tuple[float, float]]
    """Estimate and |reference - policy| of each token."""


def share(tokens: Tokens, algo: dict[str, Any], *, constant: float, num_responses: int, num_tokens: int) -> Share:
    """Sum one response's token losses and divide them as the run's settings say.

    Args:
        tokens: the response.
        algo: the run's settings of the objective.
        constant: C, tokens.
        num_responses: B.
        num_tokens: tokens that are trained on in the whole optimizer step.
    """
    trained = [t for t in range(len(tokens.new)) if tokens.mask[t]]
    divisor = {
        "response": max(len(trained), 1) * num_responses,
        "constant": constant * num_responses,
        "token": max(num_tokens, 1),
    }[algo["length_norm"]]
    policy, kl, entropy, size, kl_values = 0.0, 0.0, 0.0, 0.0, []
    mean: Number = sum(tokens.new[t] - tokens.old[t] for t in trained) / max(len(trained), 1)
    for t in trained:
        term = token_loss(tokens, t, mean, algo)
        if algo["sampler_correction"] == "token":
            assert tokens.sampler is not None
            term = term * min(math.exp(tokens.old[t] - tokens.sampler[t]), algo["correction_cap"])
        policy = policy + term / divisor
        size += abs(value_of(term)) / divisor
        if tokens.reference is not None:
            value = kl_estimate(tokens.new[t], tokens.reference[t], algo["kl_estimator"])
            kl = kl + value / divisor
            kl_values.append((value_of(value), abs(tokens.reference[t] - value_of(tokens.new[t]))))
        if algo["entropy_coef"]:
            entropy = entropy + tokens.entropy[t] / divisor
    return Share(policy, kl, entropy, size, kl_values)


def token_loss(tokens: Tokens, t: int, mean: Number, algo: dict[str, Any]) -> Number:
    """Loss of one token, before it is divided.

    Args:
        tokens: the response.
        t: number of the token.
        mean: of the response's log-ratios.
        algo: the run's settings of the objective: ``ratio`` and ``clip``.
    """
    new, advantage = tokens.new[t], tokens.advantage[t]
    if algo["ratio"] == "none":
        return -advantage * new
    if algo["ratio"] == "token":
        ratio = torch.exp(new - tokens.old[t])
    elif algo["ratio"] == "sequence":
        ratio = torch.exp(mean)
    else:  # the value of the sequence's ratio with the gradient of the token's log-probability
        ratio = math.exp(value_of(mean)) * torch.exp(new - value_of(new))
    if algo["clip"] == "none":
        return -ratio * advantage
    low, high = 1 - algo["clip_low"], 1 + algo["clip_high"]
    clipped: Number = low if ratio < low else high if ratio > high else ratio
    if algo["clip"] == "weight":
        return -value_of(clipped) * advantage * new
    return -min(ratio * advantage, clipped * advantage)


def value_of(number: Number) -> float:
    """A number without its history."""
    return number.item() if isinstance(number, torch.Tensor) else number


def kl_estimate(new: Number, reference: float, estimator: str) -> Number:
    """KL(policy || reference) from one token."""
    difference = reference - new
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference * difference / 2
    return torch.exp(difference) - 1 - difference


def learning_rate(optim: dict[str, Any], step: int, total: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of a run of ``total``."""
    warmup = optim["warmup_steps"]
    if step < warmup:
        return optim["lr"] * (step + 1) / warmup
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    if optim["schedule"] == "linear":
        return optim["lr"] * (1 - done)
    if optim["schedule"] == "cosine":
        return optim["lr"] * (1 + math.cos(math.pi * done)) / 2
    return optim["lr"]
