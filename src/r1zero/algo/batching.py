"""Which responses go into which optimizer step and which forward pass (semantics 9, 10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def minibatches(num_responses: int, minibatch_size: int, inner_epochs: int, seed: int) -> Iterator[torch.Tensor]:
    """Shuffle the responses of all ranks and cut them into optimizer steps of B.

    The permutation is over *global* response indices and the same on every rank, so that 1 rank and
    many ranks take the same optimizer steps on the same rollouts (semantics 5).

    Args:
        num_responses: responses of the rollout step over all ranks.
        minibatch_size: B, divides ``num_responses``.
        inner_epochs: passes, each with an order of its own.
        seed: the run's seed for this rollout step.

    Yields:
        int64 [B] global response indices.

    Raises:
        ValueError: B does not divide the number of responses; a smaller last step would be weighted wrongly.
    """
    if minibatch_size < 1 or num_responses % minibatch_size:
        raise ValueError(f"minibatch_size={minibatch_size} does not divide {num_responses} responses")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(inner_epochs):
        order = torch.randperm(num_responses, generator=generator)
        yield from order.split(minibatch_size)


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group sequences of like length so that none of the padded forward passes exceeds a token budget.

    Args:
        lengths: tokens of each sequence, prompt and response together.
        max_tokens: most tokens, padding counted, in one pass; one longer sequence gets a pass of its own.

    Returns:
        lists of positions into ``lengths``, longest first, so that the largest allocation comes first.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
