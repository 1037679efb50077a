"""From rewards to advantages (paper eq. 1-2, semantics 2)."""

from __future__ import annotations

import torch

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
    if group_size < 2:
        raise ValueError(f"group_size={group_size}: a group needs at least 2 responses to have a baseline")
    if rewards.ndim != 1 or rewards.numel() % group_size:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} are not whole groups of {group_size}")
    if not torch.isfinite(rewards).all():
        raise ValueError("rewards must be finite")
    groups = rewards.double().view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    # Equal floats can have a mean that differs from them in the last bit; their advantage is 0 all the same.
    equal = groups.max(dim=1, keepdim=True).values == groups.min(dim=1, keepdim=True).values
    centred = torch.where(equal, torch.zeros_like(centred), centred)
    if std_norm:
        centred = centred / (groups.std(dim=1, keepdim=True, correction=1) + STD_EPS)
    return centred.view(-1).float()
