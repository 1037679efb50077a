"""What the objective that runs does with a rollout: the weight of every token, by automatic differentiation.

At ratio 1 the gradient of one optimizer step over the whole rollout is -1/B sum_it w_it grad logp_it with the weight
w_it = -B dL / dlogp_it. It is read off the very function that trains, so masks, credit and advantages of any kind are
in it, and so is an objective of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from r1zero.algo.objective import Loss, Scale, TokenValues
from r1zero.algo_config import AlgoConfig
from r1zero.batch import RolloutBatch

ROWS = 64
"""Responses that are differentiated at once."""


def effective_weights(
    objective: Callable[..., Loss],
    algo: AlgoConfig,
    scale: Scale,
    logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """w_it of some responses, in 1/tokens; the policy's part of the loss alone, without KL and entropy terms.

    Args:
        objective: function (values, scale, algo) -> Loss.
        algo: its settings.
        scale: sizes of the step that these responses belong to.
        logprobs: where it is differentiated, new = old = sampler, [n, T].
        advantages: of each token, credit included, [n, T].
        mask: the tokens that are trained on, bool [n, T].

    Returns:
        float64 [n, T].
    """
    new = logprobs.double().requires_grad_()
    old = new.detach()
    values = TokenValues(
        new=new,
        old=old,
        sampler=old,
        reference=old if algo.kl_coef else None,
        entropy=torch.zeros_like(old),
        advantages=advantages.double(),
        mask=mask,
    )
    with torch.enable_grad():
        loss = objective(values, scale, algo)
        target = loss.value if loss.policy is None else loss.policy
        (slope,) = torch.autograd.grad(target, new, allow_unused=True, materialize_grads=True)
    return -scale.num_responses * slope


def response_weights(
    objective: Callable[..., Loss], algo: AlgoConfig, scale: Scale, rollout: RolloutBatch
) -> torch.Tensor:
    """Sum of |w_it| over the tokens of each response of this rank: float64 [N]."""
    sums = []
    for first in range(0, len(rollout.completions), ROWS):
        rows = range(first, min(first + ROWS, len(rollout.completions)))
        picked = [rollout.completions[i] for i in rows]
        mask = _matrix([rollout.mask[i] for i in rows]).bool()
        advantages = rollout.advantages[first : first + len(rows), None].expand(mask.shape)
        if rollout.credit is not None:
            advantages = advantages * _matrix([rollout.credit[i] for i in rows])
        logprobs = _matrix([torch.full((len(c.ids),), -1.0) if c.logprobs is None else c.logprobs for c in picked])
        weights = effective_weights(objective, algo, scale, logprobs, advantages, mask)
        sums.append(weights.abs().sum(dim=1))
    return torch.cat(sums)


def trained_tokens(rollout: RolloutBatch) -> int:
    """Tokens of this rank that are trained on."""
    return sum(int(row.sum()) for row in rollout.mask)


def _matrix(rows: Sequence[torch.Tensor | list[float]]) -> torch.Tensor:
    """Ragged rows -> float64 [n, T] with zeros on the right."""
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float64)
    for row, values in enumerate(rows):
        out[row, : len(values)] = torch.as_tensor(values, dtype=torch.float64)
    return out
