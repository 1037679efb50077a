"""Goldens of three training steps, and the proof that each of them can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import golden_cases
from r1zero.algo import advantages as advantages_file
from r1zero.algo import objective as objective_file
from r1zero.algo.advantages import group_advantages
from r1zero.algo.loss import aggregate, clipped_surrogate, kl_penalty, sampler_weight
from r1zero.learn import collate as collate_file
from r1zero.learn import module as module_file
from r1zero.learn import step as learner_file
from r1zero.learn.collate import MicroBatch
from r1zero.learn.policy import Policy
from r1zero.learn.step import Learner


@pytest.fixture(scope="module")
def goldens() -> dict[str, dict[str, float]]:
    return golden_cases.load()


@pytest.mark.parametrize("name", golden_cases.CASES)
def test_three_steps_give_the_stored_numbers(goldens: dict[str, dict[str, float]], name: str) -> None:
    """To 1e-5, relative. After a change that is meant to change results: python scripts/update_goldens.py."""
    assert golden_cases.differences(golden_cases.run_case(name), goldens[name]) == []


# -- mutations: each one is a plausible mistake, and the goldens must see it -------------------------------------------


def std_of_the_population(rewards: torch.Tensor, group_size: int, *, std_norm: bool) -> torch.Tensor:
    """Mutant: divisor G instead of G - 1."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True, correction=0) + 1e-8) if std_norm else centred).flatten()


def std_with_a_large_epsilon(rewards: torch.Tensor, group_size: int, *, std_norm: bool) -> torch.Tensor:
    """Mutant: 1e-4 instead of 1e-8."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4) if std_norm else centred).flatten()


def std_switched(rewards: torch.Tensor, group_size: int, *, std_norm: bool) -> torch.Tensor:
    return group_advantages(rewards, group_size, std_norm=not std_norm)


def no_baseline(rewards: torch.Tensor, group_size: int, *, std_norm: bool) -> torch.Tensor:
    return rewards.clone()


def baseline_of_the_batch(rewards: torch.Tensor, group_size: int, *, std_norm: bool) -> torch.Tensor:
    return group_advantages(rewards, len(rewards), std_norm=std_norm)


def baseline_of_the_others(rewards: torch.Tensor, group_size: int, *, std_norm: bool) -> torch.Tensor:
    """Mutant: leave-one-out, G/(G - 1) times the centred reward."""
    return group_advantages(rewards, group_size, std_norm=std_norm) * group_size / (group_size - 1)


def flipped(rewards: torch.Tensor, group_size: int, *, std_norm: bool) -> torch.Tensor:
    return -group_advantages(rewards, group_size, std_norm=std_norm)


def norm_switched(values: torch.Tensor, mask: torch.Tensor, *, length_norm: str, **kw: Any) -> torch.Tensor:
    other = {"response": "constant", "constant": "response", "token": "response"}[length_norm]
    return aggregate(values, mask, length_norm=other, **kw)


def local_denominators(
    values: torch.Tensor, mask: torch.Tensor, *, num_responses: int, num_tokens: int, **kw: Any
) -> Any:
    """Mutant: counts of the micro-batch instead of the optimizer step (traps 1-4)."""
    return aggregate(values, mask, num_responses=len(mask), num_tokens=int(mask.sum()), **kw)


def padded_width(values: torch.Tensor, mask: torch.Tensor, *, constant: float, **kw: Any) -> torch.Tensor:
    """Mutant: the constant floats with the padding (trap 6)."""
    return aggregate(values, mask, constant=mask.shape[1], **kw)


def last_token_dropped(values: torch.Tensor, mask: torch.Tensor, **kw: Any) -> torch.Tensor:
    """Mutant: the stop token is not trained on (trap 15)."""
    lengths = mask.sum(1, keepdim=True)
    return aggregate(values, mask & (torch.arange(mask.shape[1]) < lengths - 1), **kw)


def unclipped(new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, **kw: Any) -> Any:
    return clipped_surrogate(new, old, advantages, clip_low=1.0, clip_high=1e9)


def clips_swapped(new: Any, old: Any, advantages: Any, *, clip_low: float, clip_high: float) -> Any:
    return clipped_surrogate(new, old, advantages, clip_low=clip_high, clip_high=clip_low)


def dual_clip(new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, **kw: Any) -> Any:
    """Mutant: loss bounded where A < 0, at a ratio of 1.1 so that it binds."""
    losses, ratio, clipped = clipped_surrogate(new, old, advantages, **kw)
    return torch.where(advantages < 0, torch.minimum(losses, -1.1 * advantages), losses), ratio, clipped


def old_is_new(new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, **kw: Any) -> Any:
    return clipped_surrogate(new, new.detach(), advantages, **kw)


def other_kl(new: torch.Tensor, ref: torch.Tensor, estimator: str) -> torch.Tensor:
    return kl_penalty(new, ref, "k2")


def reversed_kl(new: torch.Tensor, ref: torch.Tensor, estimator: str) -> torch.Tensor:
    return kl_penalty(-new, -ref, estimator)


def reversed_weight(old: torch.Tensor, sampler: torch.Tensor, cap: float) -> torch.Tensor:
    return sampler_weight(sampler, old, cap)


def uncapped_weight(old: torch.Tensor, sampler: torch.Tensor, cap: float) -> torch.Tensor:
    return sampler_weight(old, sampler, 1e9)


def without_temperature(self: Policy, batch: MicroBatch, temperature: float = 1.0, with_entropy: bool = True) -> Any:
    return FORWARD(self, batch, 1.0, with_entropy)


def off_by_one(prompts: Any, completions: Any, **kw: Any) -> MicroBatch:
    """Mutant: each token is read off the state that has already seen it (trap 17)."""
    micro = collate_file.collate(prompts, completions, **kw)
    micro.source = micro.source + 1
    return micro


def only_right_answers(self: Learner, rollout: Any, index: int) -> bool:
    return bool(rollout.advantages[index] > 0)


def in_order(num_responses: int, minibatch_size: int, inner_epochs: int, seed: int) -> Any:
    for _ in range(inner_epochs):
        yield from torch.arange(num_responses).split(minibatch_size)


FORWARD = Policy.forward
ALL = tuple(golden_cases.CASES)
STD = ("grpo", "token")

MUTATIONS: list[tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = [
    (advantages_file, "group_advantages", std_of_the_population, STD),
    (advantages_file, "group_advantages", std_with_a_large_epsilon, STD),
    (advantages_file, "group_advantages", std_switched, ALL),
    (advantages_file, "group_advantages", no_baseline, ALL),
    (advantages_file, "group_advantages", baseline_of_the_batch, ALL),
    (advantages_file, "group_advantages", baseline_of_the_others, ALL),
    (advantages_file, "group_advantages", flipped, ALL),
    (objective_file, "aggregate", norm_switched, ALL),
    (objective_file, "aggregate", local_denominators, ALL),
    (objective_file, "aggregate", padded_width, ("drgrpo", "everything")),
    (objective_file, "aggregate", last_token_dropped, ALL),
    (objective_file, "clipped_surrogate", unclipped, ALL),
    (objective_file, "clipped_surrogate", clips_swapped, ("token",)),
    (objective_file, "clipped_surrogate", dual_clip, ALL),
    (objective_file, "clipped_surrogate", old_is_new, ALL),
    (objective_file, "kl_penalty", other_kl, ("everything",)),
    (objective_file, "kl_penalty", reversed_kl, ("everything",)),
    (objective_file, "sampler_weight", reversed_weight, ("everything",)),
    (objective_file, "sampler_weight", uncapped_weight, ("everything",)),
    (learner_file, "collate", off_by_one, ALL),
    (Policy, "forward", without_temperature, ("everything",)),
    (Learner, "has_gradient", only_right_answers, ALL),
    (module_file, "minibatches", in_order, ALL),
]


@pytest.mark.parametrize(("place", "name", "mutant", "cases"), MUTATIONS, ids=[m[2].__name__ for m in MUTATIONS])
def test_every_golden_sees_the_mutation(
    goldens: dict[str, dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    mutant: Callable[..., Any],
    cases: tuple[str, ...],
) -> None:
    """Normaliser, deviation, baseline, sign and what else is easily got wrong: no golden that it touches passes."""
    monkeypatch.setattr(place, name, mutant)
    for case in cases:
        assert golden_cases.differences(golden_cases.run_case(case), goldens[case]), f"{case} does not see it"


def test_a_golden_that_the_mutation_does_not_touch_still_passes(
    goldens: dict[str, dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is seen is the mistake, not the act of mutating."""
    monkeypatch.setattr(advantages_file, "group_advantages", std_of_the_population)
    assert golden_cases.differences(golden_cases.run_case("drgrpo"), goldens["drgrpo"]) == []
