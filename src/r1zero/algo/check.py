"""Tries an objective out on a few random tokens before anything is trained, and says what to mend in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from r1zero.algo.objective import Loss, Scale, TokenValues, moves_without_advantage
from r1zero.algo_config import AlgoConfig
from r1zero.errors import whole_message

LENGTHS = (5, 2, 7, 4, 0, 3, 6)
"""Tokens of the responses it is tried on; one is left out of the loss, as algo.truncated=exclude does."""
WITHOUT_ADVANTAGE = 3
"""The response whose advantage is 0."""
SCALE = Scale(num_responses=len(LENGTHS), num_tokens=sum(LENGTHS), constant=10.0)
CUTS = ((0, 2), (2, 3), (3, 7))
"""The same optimizer step in three passes, which is all that ranks amount to."""
CLOSE = 1e-9
"""Largest relative difference in float64 that rounding explains."""


class ObjectiveError(ValueError):
    """An objective that would train something else than it says; the message names the line to mend."""


def check_objective(
    objective: Callable[..., Loss], algo: AlgoConfig | None = None, **params: Any
) -> dict[str, tuple[int, ...]]:
    """Test that an objective is one: shapes, gradient, and a loss that depends on the optimizer step alone.

    The loss of a step must not depend on how it is cut into passes or ranks, on padding or on the order of responses;
    a token outside the mask has no gradient; a response without advantage has none, unless the function has
    ``moves_without_advantage = True`` or ``algo`` a KL or entropy term. Takes milliseconds on a CPU.

    Args:
        objective: function (values, scale, algo, **params) -> Loss.
        algo: settings that it is called with; None: the defaults.
        params: its other keyword arguments.

    Returns:
        the figures that it reports: {name: shape}.

    Raises:
        ObjectiveError: one line that says what to change.
    """
    algo = algo or AlgoConfig(name="checked")
    whole = _values(bool(algo.kl_coef))

    def run(values: TokenValues) -> tuple[float, torch.Tensor, Loss]:
        return _run(objective, values, algo, params)

    value, slope, loss = run(whole)
    if not _slope_at_one(objective, whole, algo, params).any():
        raise ObjectiveError(
            "its value does not depend on values.new: there is nothing to learn from; use values.new without .detach()"
        )
    _check_passes(run, whole, value, slope)
    _check_padding(run, whole, value, slope)
    if slope[~whole.mask].any():
        raise ObjectiveError("tokens outside values.mask have a gradient: put 0 there before you sum")
    if slope[WITHOUT_ADVANTAGE].any() and not moves_without_advantage(objective, algo):
        raise ObjectiveError(
            "a response without advantage has a gradient, and such responses are not computed: if that is meant, "
            "set my_objective.moves_without_advantage = True below the function"
        )
    return {name: tuple(figure.shape) for name, (figure, _) in loss.figures.items()}


def _values(with_reference: bool) -> TokenValues:
    """A few responses whose policy has moved since they were sampled, in float64."""
    draw = torch.Generator().manual_seed(0)
    shape = len(LENGTHS), max(LENGTHS)

    def noise(size: float) -> torch.Tensor:
        return size * torch.randn(shape, generator=draw, dtype=torch.float64)

    old = -1.5 + noise(0.5)
    advantages = torch.tensor([1.0, -0.5, 0.75, 0.0, -1.0, -0.25, 0.5], dtype=torch.float64)[:, None].expand(shape)
    return TokenValues(
        new=old + noise(0.1),
        old=old,
        sampler=old + noise(0.05),
        reference=old + noise(0.2) if with_reference else None,
        entropy=1.0 + noise(0.1).abs(),
        advantages=advantages,
        mask=torch.arange(shape[1])[None, :] < torch.tensor(LENGTHS)[:, None],
    )


def _part(values: TokenValues, rows: Sequence[int]) -> TokenValues:
    """Some of the responses."""
    return _each(values, lambda tensor: tensor[list(rows)])


def _widened(values: TokenValues, columns: int) -> TokenValues:
    """The same with more padding, in which arbitrary numbers stand."""
    fill = torch.linspace(-3, -1, columns, dtype=torch.float64).expand(len(values.new), columns)
    wide = _each(values, lambda tensor: torch.cat([tensor, fill.to(tensor.dtype)], dim=1))
    return replace(wide, mask=torch.cat([values.mask, torch.zeros_like(fill, dtype=torch.bool)], dim=1))


def _each(values: TokenValues, change: Callable[[torch.Tensor], torch.Tensor]) -> TokenValues:
    tensors = {f.name: getattr(values, f.name) for f in fields(TokenValues)}
    changed: dict[str, Any] = {name: None if tensor is None else change(tensor) for name, tensor in tensors.items()}
    return TokenValues(**changed)


def _run(
    objective: Callable[..., Loss], values: TokenValues, algo: AlgoConfig, params: dict[str, Any]
) -> tuple[float, torch.Tensor, Loss]:
    """Call it; its value, the value's gradient at each log-probability, and what it gave."""
    new, entropy = values.new.detach().requires_grad_(), values.entropy.detach().requires_grad_()
    try:
        loss = objective(replace(values, new=new, entropy=entropy), SCALE, algo, **params)
    except Exception as error:
        raise ObjectiveError(f"it raised {type(error).__name__}: {whole_message(error)}") from error
    if not isinstance(loss, Loss):
        raise ObjectiveError(f"it gave a {type(loss).__name__}: return Loss(value), from r1zero.algo")
    _check_shapes(loss, values)
    if loss.policy is not None and not loss.policy.requires_grad:
        raise ObjectiveError(
            "its policy part has no gradient, and the bias meter differentiates it: give Loss.policy without .detach()"
        )
    if not loss.value.requires_grad:
        raise ObjectiveError(
            "its value has no gradient: compute it from values.new, not from values.new.detach() or under no_grad"
        )
    slope, by_entropy = torch.autograd.grad(loss.value, (new, entropy), allow_unused=True, materialize_grads=True)
    if not all(torch.isfinite(t).all() for t in (loss.value, slope, by_entropy)):
        raise ObjectiveError(
            "its value or gradient is not finite: a response may have no token under values.mask, so divide by "
            "values.mask.sum(1).clamp(min=1)"
        )
    return loss.value.item(), slope + by_entropy, loss


def _slope_at_one(
    objective: Callable[..., Loss], values: TokenValues, algo: AlgoConfig, params: dict[str, Any]
) -> torch.Tensor:
    """Gradient at each log-probability where the policy has not moved yet, so that nothing is clipped."""
    new = values.new.detach().requires_grad_()
    entropy = values.entropy.detach().requires_grad_()
    loss = objective(replace(values, new=new, old=values.new, entropy=entropy), SCALE, algo, **params)
    (slope,) = torch.autograd.grad(loss.value, new, allow_unused=True, materialize_grads=True)
    return slope


def _check_shapes(loss: Loss, values: TokenValues) -> None:
    for name, scalar in (("value", loss.value), ("policy", loss.value if loss.policy is None else loss.policy)):
        if not isinstance(scalar, torch.Tensor) or scalar.ndim:
            given = f"one of shape {tuple(scalar.shape)}" if hasattr(scalar, "shape") else repr(scalar)
            raise ObjectiveError(f"its {name} must be one number, a tensor without dimensions, not {given}: sum it up")
    for name, figure in loss.figures.items():
        if not isinstance(figure, tuple) or [getattr(t, "shape", None) for t in figure] != [values.new.shape] * 2:
            raise ObjectiveError(
                f"its figure {name!r} must be a pair (values, mask) of shape [n, T], that of values.new each"
            )
        if figure[1].dtype != torch.bool:
            raise ObjectiveError(f"the mask of its figure {name!r} must be bool, not {figure[1].dtype}")


Run = Callable[[TokenValues], tuple[float, torch.Tensor, Loss]]


def _check_passes(run: Run, whole: TokenValues, value: float, slope: torch.Tensor) -> None:
    """Parts of a step, in any order, add up to the step; where not, guess which denominator is the pass's own."""
    parts = [list(range(first, last)) for first, last in reversed(CUTS)]
    found = [(rows, *run(_part(whole, rows))[:2]) for rows in parts]

    def adds_up(weight: Callable[[list[int]], float]) -> bool:
        total = sum(part * weight(rows) for rows, part, _ in found)
        rebuilt = torch.cat([gradient * weight(rows) for rows, _, gradient in reversed(found)])
        return _close(total, value) and _near(rebuilt, slope)

    if adds_up(lambda rows: 1.0):
        return
    if adds_up(lambda rows: sum(LENGTHS[i] for i in rows) / SCALE.num_tokens):
        raise ObjectiveError(
            "your loss divides by the micro-batch's own token count (values.mask.sum()); use scale.num_tokens"
        )
    if adds_up(lambda rows: len(rows) / SCALE.num_responses):
        raise ObjectiveError(
            "your loss divides by the micro-batch's own number of responses (.mean() or len(values.new)); sum, and "
            "use scale.num_responses"
        )
    total = sum(part for _, part, _ in found)
    raise ObjectiveError(
        f"your loss depends on how an optimizer step is cut into micro-batches: in three parts it adds up to "
        f"{total:.6g}, whole it is {value:.6g}; take no mean, count or other statistic over the responses of "
        "values: use scale.num_responses, scale.num_tokens or scale.constant"
    )


def _check_padding(run: Run, whole: TokenValues, value: float, slope: torch.Tensor) -> None:
    wide, wide_slope, _ = run(_widened(whole, 3))
    if not _close(wide, value) or not _near(wide_slope[:, : slope.shape[1]], slope):
        raise ObjectiveError(
            "your loss depends on the padding: put 0 outside values.mask before you sum, and divide by "
            "values.mask.sum(1) or by scale, never by values.new.shape[1]"
        )


def _close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=CLOSE, abs_tol=CLOSE)


def _near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=CLOSE, atol=CLOSE * float(expected.abs().max()))
