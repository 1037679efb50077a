"""Advantage and credit functions, the user's own among them: how they are called, and what they may give.

A function takes the batch, ``f(batch, **params)``, with everything that is known of a rollout step
(:class:`r1zero.batch.RolloutBatch`). Older ones take two arguments, ``f(rewards, group_size, **params)`` for
advantages and ``f(rollout, decode, **params)`` for credit; the signature tells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from r1zero.batch import RolloutBatch


class FaultyRule(ValueError):
    """A function gave something else than a number for each response or token."""


def takes_two(function: Callable[..., Any], second: str, params: Mapping[str, Any]) -> bool:
    """Whether a function has the older form of two arguments.

    It has where a parameter bears the second one's name, or where the batch alone does not satisfy it.

    Args:
        function: of the user's own, or a built-in one.
        second: name of the older form's second argument.
        params: keyword arguments that every call has.
    """
    signature = inspect.signature(function)
    if second in signature.parameters and second not in params:
        return True
    try:
        signature.bind(None, **params)
    except TypeError:
        return True
    return False


def call_with_two(function: Callable[..., Any], first: Any, name: str, second: Any, params: Mapping[str, Any]) -> Any:
    """Call the older form; its second argument may be keyword-only."""
    parameter = inspect.signature(function).parameters.get(name)
    if parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        return function(first, **{name: second}, **params)
    return function(first, second, **params)


def private(rollout: RolloutBatch) -> RolloutBatch:
    """A rollout whose tensors a function may write into: what the run learns and records is not changed by it."""
    return replace(
        rollout,
        rewards=rollout.rewards.clone(),
        right=rollout.right.clone(),
        advantages=rollout.advantages.clone(),
        mask=[row.clone() for row in rollout.mask],
        metrics=dict(rollout.metrics),
    )


def checked_advantages(function: Callable[..., Any], rollout: RolloutBatch, params: Mapping[str, Any]) -> torch.Tensor:
    """Call an advantage function and check what it gives.

    Returns:
        float32 [N].

    Raises:
        FaultyRule: another shape, or a number that is not finite.
    """
    own = private(rollout)
    if takes_two(function, "group_size", params):
        takes_batch = next(iter(inspect.signature(function).parameters)) == "batch"
        first = own if takes_batch else own.rewards  # f(batch, group_size=8) is told G, too
        made = call_with_two(function, first, "group_size", own.group_size, params)
    else:
        made = function(own, **params)
    made = torch.as_tensor(made, dtype=torch.float32).detach().cpu()
    wanted = tuple(rollout.rewards.shape)
    if made.shape != wanted:
        raise FaultyRule(f"it gave shape {tuple(made.shape)}; {wanted} is needed, one advantage for each response")
    if bad := (~torch.isfinite(made)).nonzero().flatten().tolist():
        raise FaultyRule(f"it gave {made[bad[0]].item()} for response {bad[0]}; advantages must be finite")
    return made
