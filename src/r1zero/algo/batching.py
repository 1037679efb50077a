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


def packed_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Fill forward passes of packed sequences, which have no padding, up to a token budget (first fit, longest first).

    Args:
        lengths: tokens of each sequence, prompt and response together.
        max_tokens: most tokens in one pass; one longer sequence gets a pass of its own.

    Returns:
        lists of positions into ``lengths``.
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fit = next((b for b, left in enumerate(room) if lengths[position] <= left), None)
        if fit is None:
            batches.append([])
            room.append(max_tokens)
            fit = len(room) - 1
        batches[fit].append(position)
        room[fit] -= lengths[position]
    return batches


def micro_batches(lengths: Sequence[int], max_tokens: int, pass_tokens: int = 128) -> list[list[int]]:
    """Group sequences of like length so that padded forward passes cost least within a token budget.

    A pass costs its tokens, padding counted, and ``pass_tokens`` more for being made at all: one response of 190
    tokens does not make a hundred of 30 as long as itself, and there are not as many passes as lengths.

    Args:
        lengths: tokens of each sequence, prompt and response together.
        max_tokens: most tokens, padding counted, in one pass; one longer sequence gets a pass of its own.
        pass_tokens: what a pass costs besides its tokens, in tokens.

    Returns:
        lists of positions into ``lengths``, longest first, so that the largest allocation comes first.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # least[k]: cost of the k longest sequences in the best grouping; start[k]: where the last group of it starts.
    least, start = [0], [0]
    for end in range(1, len(order) + 1):
        best, best_start = least[end - 1] + lengths[order[end - 1]] + pass_tokens, end - 1
        for first in range(end - 2, -1, -1):
            padded = lengths[order[first]] * (end - first)
            if padded > max_tokens:
                break  # an earlier start makes the group both longer and wider
            if (cost := least[first] + padded + pass_tokens) <= best:
                best, best_start = cost, first
        least.append(best)
        start.append(best_start)
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[start[end] : end])
        end = start[end]
    return batches[::-1]
