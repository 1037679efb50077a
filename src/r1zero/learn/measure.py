"""The learner's figures, and the responses that they are taken over.

Entropy, KL, clip fractions and the difference from the sampler are means over tokens of one and the same sample of a
rollout step's responses, whatever the coefficients of the loss. A response without advantage is not trained on, so
that its share of the sample costs a forward pass of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from r1zero.algo.stats import Tally
from r1zero.batch import RolloutBatch

APART = (1e-6, 1e-4, 1e-2, 1e-1)
"""Nats; the share of tokens that differ by more than each is the histogram of differences, exact over ranks."""

MEANS = (
    "policy/entropy",
    "policy/clip_frac",
    "policy/approx_kl",
    "loss/kl",
    "sync/logprob_diff_mean",
    *(f"sync/over_{nats:g}" for nats in APART),
)
MAXIMA = ("policy/ratio_max", "policy/grad_norm", "sync/logprob_diff_max")
TOTALS = ("loss/policy", "tokens/learned", "policy/measured_tokens", "policy/skipped_steps")

MEASURED_SHARE = 1 / 8
MEASURED_LEAST = 32
"""Responses of a rollout step that the figures are taken over: an eighth, but at least 32 or all."""

CHECK_TOKENS = 64
"""Tokens of the responses that stand in where none moves the policy."""


def declare(tally: Tally, figures: Iterable[str] = ()) -> None:
    """Name every figure of the learner and the objective: a rank with nothing to compute reduces the same list."""
    empty = torch.empty(0)
    for name in {*MEANS, *figures}:
        tally.mean(name, empty)
    for name in MAXIMA:
        tally.maximum(name, empty)
    for name in TOTALS:
        tally.total(name, 0.0)


def measured_responses(rollout: RolloutBatch, seed: int, rank: int = 0, world_size: int = 1) -> torch.Tensor:
    """Which of this rank's responses the figures are taken over: bool [N].

    Drawn among all ranks' responses, so that any number of ranks draws the same. A response that the loss leaves out
    is not among them; where a rank has none of those drawn it measures its next one.

    Args:
        rollout: this rank's responses.
        seed: the run's seed for this rollout step.
        rank: which of the ranks, each with N responses.
        world_size: number of ranks.
    """
    size = len(rollout.completions)
    total = size * world_size
    place = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).argsort()[rank * size :][:size]
    usable = torch.tensor([bool(row.any()) for row in rollout.mask])
    if not usable.any():  # nothing is learned here; the comparison with the sampler is still made
        usable = torch.tensor([c.length > 0 for c in rollout.completions])
    wanted = max(MEASURED_LEAST, math.ceil(total * MEASURED_SHARE))
    place = torch.where(usable, place, total)
    return usable & ((place < wanted) | (place == place.min()))


def few(rollout: RolloutBatch, indices: Iterable[int]) -> list[int]:
    """The shortest responses that together have ``CHECK_TOKENS`` tokens, or all."""
    found: list[int] = []
    tokens = 0
    for i in sorted(indices, key=lambda i: len(rollout.completions[i].ids)):
        if tokens >= CHECK_TOKENS:
            break
        found.append(i)
        tokens += len(rollout.completions[i].ids)
    return found


def measured_tokens(rollout: RolloutBatch, rows: Sequence[int], sampled: torch.Tensor) -> torch.Tensor:
    """Tokens that count in the figures: bool [n, T], those of ``sampled`` whose response is measured."""
    if rollout.measured is None:
        return sampled
    return sampled & rollout.measured[list(rows)].to(sampled.device)[:, None]


def compare_with_sampler(
    rollout: RolloutBatch, rows: Sequence[int], learner: torch.Tensor, mask: torch.Tensor, tally: Tally
) -> None:
    """Measure |learner - sampler| log-probabilities per token: proof that the engine serves these very weights.

    Args:
        rollout: holds the sampler's log-probabilities.
        rows: local indices of the responses.
        learner: the learner's log-probabilities, [n, T].
        mask: bool [n, T].
        tally: takes ``sync/logprob_diff_mean`` and ``sync/logprob_diff_max``, in nats, and ``sync/over_``.
    """
    given = [row for row, i in enumerate(rows) if rollout.completions[i].logprobs is not None]
    if given:
        sampler = sampler_logprobs(rollout, [rows[r] for r in given], learner[given])
        difference = (learner[given] - sampler).abs()
        tally.mean("sync/logprob_diff_mean", difference, mask[given])
        tally.maximum("sync/logprob_diff_max", difference, mask[given])
        for nats in APART:
            tally.mean(f"sync/over_{nats:g}", (difference > nats).float(), mask[given])


def sampler_logprobs(rollout: RolloutBatch, rows: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """The sampler's log-probabilities as a matrix [n, T], zeros on tokens that it did not sample.

    Raises:
        ValueError: the engine gave none for a response, or another number of them than of tokens.
    """
    for i in rows:
        completion = rollout.completions[i]
        if completion.logprobs is None or len(completion.logprobs) != len(completion.ids):
            given = "none" if completion.logprobs is None else len(completion.logprobs)
            raise ValueError(
                f"response {i} has {len(completion.ids)} tokens and {given} log-probabilities of the sampler; "
                "the engine must give one for each token"
            )
    values = [torch.tensor(rollout.completions[i].logprobs, dtype=like.dtype) for i in rows]
    sampled = [rollout.completions[i].sampled() for i in rows]
    return to_matrix([torch.where(s, v, torch.zeros_like(v)) for v, s in zip(values, sampled, strict=True)], like)


def to_matrix(rows: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Ragged rows -> [n, T] with zeros on the right, in the dtype (float32) and on the device of ``like``."""
    out = torch.zeros(like.shape, dtype=like.dtype)
    if rows and rows[0].device != out.device:
        out = out.to(rows[0].device)
    for row, values in enumerate(rows):
        out[row, : values.shape[0]] = values
    return out.to(like.device)
