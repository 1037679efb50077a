"""From logits to tokens: the distribution that is sampled, and draws that depend on seed, response and position alone.

Draws are by inversion: one number in [0, 1) a token, which falls into one token's share of the distribution. The number
is a hash (the finaliser of SplitMix64: Steele, Lea and Flood 2014) and not the next of a stream, so the responses
sampled beside a response, and when it is its turn, mean nothing for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from r1zero.rollout.engine import Sampling

GAMMA = np.uint64(0x9E3779B97F4A7C15)


def hashed(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """SplitMix64's finaliser: uint64 -> uint64, one to one."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def streams(seed: int, count: int) -> np.ndarray[Any, Any]:
    """One state a response, uint64 [count]."""
    base = hashed(np.array([seed % 2**64], dtype=np.uint64))
    return hashed(base + GAMMA * np.arange(1, count + 1, dtype=np.uint64))


def uniform(states: np.ndarray[Any, Any], positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers in [0, 1 - 2**-48], float64 [rows], of responses with these states at these positions."""
    return (hashed(states + GAMMA * (positions.astype(np.uint64) + np.uint64(1))) >> np.uint64(16)) / 2.0**48


def warpers(sampling: Sampling) -> list[Any]:
    """Temperature, top-k and top-p, in vLLM's order; none where the most likely token is taken."""
    if sampling.temperature == 0:
        return []
    made: list[Any] = []
    if sampling.temperature != 1:
        made.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k > 0:
        made.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        made.append(TopPLogitsWarper(sampling.top_p))
    return made


def pick(logprobs: torch.Tensor, numbers: np.ndarray[Any, Any]) -> torch.Tensor:
    """The tokens [rows] into whose shares of ``exp(logprobs)`` [rows, V] the numbers [rows] fall; never one of none."""
    sums = logprobs.exp().cumsum(-1, dtype=torch.float64)
    # At most (1 - 2**-48) of the sum, so the token found adds to it: its probability is above 0.
    targets = torch.from_numpy(numbers).to(sums.device)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, targets, right=True)[:, 0]
