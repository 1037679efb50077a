"""check_objective tells what is wrong with an objective of one's own, and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from r1zero.algo import Loss, ObjectiveError, Scale, TokenValues, check_objective
from r1zero.algo_config import AlgoConfig


def gains(v: TokenValues) -> torch.Tensor:
    return -v.new * v.advantages * v.mask


def per_response(v: TokenValues) -> torch.Tensor:
    return gains(v).sum(1) / v.mask.sum(1).clamp(min=1)


def right(v: TokenValues, s: Scale, a: AlgoConfig) -> Loss:
    return Loss(per_response(v).sum() / s.num_responses, {"mine/gain": (gains(v), v.mask)})


def test_a_right_one_passes_and_its_figures_are_named() -> None:
    assert check_objective(right) == {"mine/gain": (7, 7)}


def test_parameters_and_settings_are_given_to_it() -> None:
    def scaled(v: TokenValues, s: Scale, a: AlgoConfig, *, factor: float) -> Loss:
        assert a.clip_high == 0.5
        assert v.reference is not None
        return Loss(factor * gains(v).sum() / s.constant)

    check_objective(scaled, AlgoConfig(name="mine", clip_high=0.5, kl_coef=0.1), factor=2.0)


def no_grad(v: TokenValues, s: Scale, a: AlgoConfig) -> Loss:
    with torch.no_grad():
        return right(v, s, a)


def with_entropy(v: TokenValues, s: Scale, a: AlgoConfig) -> Loss:
    return Loss(right(v, s, a).value - 0.01 * (v.entropy * v.mask).sum() / s.num_tokens)


WRONG: dict[str, tuple[Any, str]] = {
    "own token count": (
        lambda v, s, a: Loss(gains(v).sum() / v.mask.sum()),
        r"divides by the micro-batch's own token count \(values.mask.sum\(\)\); use scale.num_tokens",
    ),
    "own number of responses": (
        lambda v, s, a: Loss(per_response(v).mean()),
        r"own number of responses \(.mean\(\) or len\(values.new\)\); sum, and use scale.num_responses",
    ),
    "mean of the matrix": (lambda v, s, a: Loss(gains(v).mean()), "own number of responses"),
    "whitening in the pass": (
        lambda v, s, a: Loss(((v.advantages.mean() - v.advantages) * v.new * v.mask).sum() / s.num_tokens),
        r"depends on how an optimizer step is cut into micro-batches: in three parts it adds up to",
    ),
    "no mask": (lambda v, s, a: Loss(-(v.new * v.advantages).sum() / s.num_tokens), "depends on the padding"),
    "width": (lambda v, s, a: Loss(gains(v).sum() / v.new.shape[1]), "never by values.new.shape"),
    "empty response": (
        lambda v, s, a: Loss((gains(v).sum(1) / v.mask.sum(1)).sum() / s.num_responses),
        r"not finite: .* values.mask.sum\(1\).clamp\(min=1\)",
    ),
    "no gradient": (no_grad, "its value has no gradient"),
    "detached": (lambda v, s, a: Loss((v.new.detach() * v.entropy * v.mask).sum()), "does not depend on values.new"),
    "a matrix": (lambda v, s, a: Loss(gains(v)), r"one number, .* not one of shape \(7, 7\): sum it up"),
    "a number": (lambda v, s, a: Loss(1.0), "one number, .* not 1.0"),
    "a tensor": (lambda v, s, a: gains(v).sum(), r"it gave a Tensor: return Loss\(value\), from r1zero.algo"),
    "nothing": (lambda v, s, a: None, "it gave a NoneType"),
    "an error": (lambda v, s, a: v.logits, "it raised AttributeError: .*logits"),
    "a figure that is no pair": (
        lambda v, s, a: Loss(right(v, s, a).value, {"mine/x": v.new.mean()}),
        r"its figure 'mine/x' must be a pair \(values, mask\)",
    ),
    "a mask of numbers": (
        lambda v, s, a: Loss(right(v, s, a).value, {"mine/x": (v.new, v.new)}),
        "the mask of its figure 'mine/x' must be bool",
    ),
    "a policy part without gradient": (
        lambda v, s, a: Loss(right(v, s, a).value, policy=right(v, s, a).value.detach()),
        "its policy part has no gradient, .* without .detach",
    ),
    "a policy part that is a matrix": (
        lambda v, s, a: Loss(right(v, s, a).value, {}, gains(v)),
        "its policy must be one",
    ),
    "entropy": (with_entropy, "set my_objective.moves_without_advantage = True"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_one_is_told_in_one_line(name: str) -> None:
    objective, message = WRONG[name]
    with pytest.raises(ObjectiveError, match=message) as caught:
        check_objective(objective)
    assert "\n" not in str(caught.value)


def test_one_that_moves_responses_without_advantage_may_say_so() -> None:
    with_entropy.moves_without_advantage = True  # type: ignore[attr-defined]
    try:
        check_objective(with_entropy)
    finally:
        del with_entropy.moves_without_advantage  # type: ignore[attr-defined]
    check_objective(with_entropy, AlgoConfig(name="mine", entropy_coef=0.01))
