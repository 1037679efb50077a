"""From rewards to advantages (paper eq. 1-2, semantics 2), and what other papers put in that place.

``algo.advantage`` names a function of ``ADVANTAGES`` or the import path of one of your own: ``f(batch, **params)``,
with the :class:`~r1zero.batch.RolloutBatch` of this rank, gives one advantage a response. Figures over all responses
of the rollout step go through :func:`sum_over_ranks`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from r1zero.batch import RolloutBatch

STD_EPS = 1e-8


def group_advantages(rewards: torch.Tensor, group_size: int, *, std_norm: bool) -> torch.Tensor:
    """Advantage of each response against the mean of its group.

    Dr. GRPO: ``A_i = r_i - mean(group)``. GRPO divides that by the group's standard deviation
    (unbiased, divisor G - 1) + 1e-8, which gives very easy and very hard questions large updates:
    the difficulty bias. Groups are blocks of ``group_size`` by index, never by prompt text (trap 14).

    Args:
        rewards: float [N], N a multiple of ``group_size``.
        group_size: G, at least 2.
        std_norm: divide by the group's standard deviation.

    Returns:
        float32 [N]; exactly 0 for every response of a group with equal rewards (traps 8, 9).

    Raises:
        ValueError: for G < 2, a ragged number of rewards, or a reward that is not finite.
    """
    groups, centred = _centred(rewards, group_size)
    if std_norm:
        centred = centred / (groups.std(dim=1, keepdim=True, correction=1) + STD_EPS)
    return centred.view(-1).float()


def _centred(rewards: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards in groups and the same less their group's mean, float64 [N / G, G] each."""
    if group_size < 2:
        raise ValueError(f"group_size={group_size}: a group needs at least 2 responses to have a baseline")
    if rewards.ndim != 1 or rewards.numel() % group_size:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} are not whole groups of {group_size}")
    if not torch.isfinite(rewards).all():
        raise ValueError("rewards must be finite")
    groups = rewards.double().view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    # Equal floats can have a mean that differs from them in the last bit; their advantage is still 0.
    equal = groups.max(dim=1, keepdim=True).values == groups.min(dim=1, keepdim=True).values
    centred = torch.where(equal, torch.zeros_like(centred), centred)
    return groups, centred


def group(batch: RolloutBatch, std_norm: bool = False) -> torch.Tensor:
    """Reward less the mean of its group, divided by the group's standard deviation where asked; float32 [N]."""
    return group_advantages(batch.rewards, batch.group_size, std_norm=std_norm)


def right_only(batch: RolloutBatch) -> torch.Tensor:
    """:func:`group` without the pushes down, by import path (``sweep=near_zero``); float32 [N]."""
    return group(batch).clamp(min=0)


def leave_one_out(batch: RolloutBatch) -> torch.Tensor:
    """RLOO (arXiv 2402.14740): reward less the mean of the *other* responses of its group; float32 [N].

    That is G / (G - 1) times the reward less the mean of all, so RLOO without clipping is Dr. GRPO at a learning rate
    of G / (G - 1) times its own.
    """
    size = batch.group_size
    _, centred = _centred(batch.rewards, size)
    return (centred * (size / (size - 1))).view(-1).float()


def batch_norm(batch: RolloutBatch) -> torch.Tensor:
    """REINFORCE++ (arXiv 2501.03262): reward less the mean, by the standard deviation, of the whole rollout step.

    Mean and deviation are taken over the trained tokens of all ranks, so a long response counts as often as it has
    tokens, as in the paper's per-token form. A group with equal rewards has an advantage here. float32 [N].
    """
    return _normalised(batch.rewards.double(), _trained(batch)).float()


def group_then_batch_norm(batch: RolloutBatch) -> torch.Tensor:
    """REINFORCE++ with baseline (arXiv 2501.03262): less the group's mean, then normalised as :func:`batch_norm`."""
    _, centred = _centred(batch.rewards, batch.group_size)
    return _normalised(centred.view(-1), _trained(batch)).float()


def group_mean_batch_std(batch: RolloutBatch) -> torch.Tensor:
    """Lite PPO (arXiv 2508.08221): reward less its group's mean, by the deviation of all rewards of the step.

    The deviation is over the responses of all ranks, divisor N - 1. float32 [N].
    """
    _, centred = _centred(batch.rewards, batch.group_size)
    _, std = moments(batch.rewards.double(), torch.ones(len(batch.rewards)))
    return (centred.view(-1) / (std + STD_EPS)).float()


def mean_norm(batch: RolloutBatch) -> torch.Tensor:
    """MaxRL (arXiv 2602.02710): reward less its group's mean, divided by that mean; 0 where the mean is 0.

    With rewards 0 and 1 a right answer of a group with k of G right has (G - k) / k, a wrong one -1: an unbiased
    gradient of a likelihood's expansion up to order G, which weighs hard questions more.

    Raises:
        ValueError: a reward is negative, so the mean is not a success rate.
    """
    if (batch.rewards < 0).any():
        raise ValueError("mean_norm divides by the mean reward of a group: no reward may be negative")
    groups, centred = _centred(batch.rewards, batch.group_size)
    mean = groups.mean(dim=1, keepdim=True)
    return torch.where(mean > 0, centred / mean, torch.zeros_like(centred)).view(-1).float()


ADVANTAGES: dict[str, Callable[..., torch.Tensor]] = {
    "group": group,
    "leave_one_out": leave_one_out,
    "batch_norm": batch_norm,
    "group_then_batch_norm": group_then_batch_norm,
    "group_mean_batch_std": group_mean_batch_std,
    "mean_norm": mean_norm,
}
"""What ``algo.advantage`` can name."""


def overlong_penalty(lengths: torch.Tensor, limit: int, share: float) -> torch.Tensor:
    """DAPO's soft overlong punishment (arXiv 2503.14476 eq. 13), added to the reward.

    Args:
        lengths: tokens of each response, float [N].
        limit: L_max, the response-length limit, tokens.
        share: L_cache / L_max, the last part of the limit, in (0, 1]; the paper's is 4096 / 20480.

    Returns:
        float32 [N]: 0 up to L_max - L_cache, falling linearly to -1 at L_max.
    """
    cache = share * limit
    return -((lengths.double() - (limit - cache)) / cache).clamp(0, 1).float()


def moments(values: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean and unbiased standard deviation over all ranks, float64 scalars.

    Args:
        values: float64 [N].
        weights: how often each value counts, [N]; the divisor of the variance is their sum less 1.
    """
    weights = weights.double()
    count, total = sum_over_ranks(torch.stack([weights.sum(), (weights * values).sum()]))
    mean = total / count.clamp(min=1)
    squares = sum_over_ranks((weights * (values - mean).square()).sum())
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks; itself where there is one. Every rank must call it."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    on_gpu = dist.get_backend() == "nccl"
    moved = values.to(torch.device("cuda", torch.cuda.current_device())) if on_gpu else values.clone()
    dist.all_reduce(moved)
    return moved.to(values.device)


def _trained(batch: RolloutBatch) -> torch.Tensor:
    """Tokens of each response that are trained on: [N]."""
    return torch.tensor([float(row.sum()) for row in batch.mask])


def _normalised(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(values - mean) / std over all ranks; 0 where all are equal."""
    if not torch.isfinite(values).all():
        raise ValueError("rewards must be finite")
    mean, std = moments(values, weights)
    if std <= 1e-9 * mean.abs():  # rounding of equal values is not a deviation
        return torch.zeros_like(values)
    return (values - mean) / (std + STD_EPS)
