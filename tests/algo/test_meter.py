"""The meter reads the weights of tokens off the objective that runs: by hand, and off the learner's own gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from objective_support import random_policy, random_prompts, random_rollout
from r1zero.algo.advantages import ADVANTAGES
from r1zero.algo.meter import response_weights, trained_tokens
from r1zero.algo.objective import Loss, Scale, TokenValues, policy_gradient
from r1zero.algo.stats import Tally
from r1zero.algo_config import AlgoConfig, KLEstimator
from r1zero.batch import Completion, RolloutBatch
from r1zero.learn.step import Learner

CONFIGS = Path(__file__).parents[2] / "conf" / "algo"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))

# Two groups of four, one and three right answers; C = 100 tokens.
REWARDS = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0])
LENGTHS = [10, 20, 40, 50, 10, 20, 25, 80]


def load(name: str) -> AlgoConfig:
    given = {k: v for k, v in OmegaConf.load(CONFIGS / f"{name}.yaml").items() if k != "defaults"}  # type: ignore[union-attr]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(AlgoConfig), given))  # type: ignore[return-value]


def advantages_of(algo: AlgoConfig, batch: RolloutBatch) -> torch.Tensor:
    return ADVANTAGES[algo.advantage](batch, **({"std_norm": algo.std_norm} if algo.advantage == "group" else {}))


def rollout_of(algo: AlgoConfig, **changes: Any) -> RolloutBatch:
    completions = [Completion([7] * n, "", "stop", [-1.5] * n) for n in LENGTHS]
    mask = [torch.ones(n, dtype=torch.bool) for n in LENGTHS]
    batch = RolloutBatch(completions, 4, 0, REWARDS, REWARDS == 1, **({"mask": mask} | changes))
    batch.advantages = advantages_of(algo, batch)
    return batch


def measured(algo: AlgoConfig, batch: RolloutBatch) -> list[float]:
    """Mean weight of each response's tokens."""
    scale = Scale(len(LENGTHS), trained_tokens(batch), 100.0)
    return (response_weights(policy_gradient, algo, scale, batch) / torch.tensor(LENGTHS)).tolist()


A = [0.75, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.75]  # |reward - mean of the group|; the deviation of both is 1/2
BY_HAND = {
    "drgrpo": [a / 100 for a in A],
    "grpo": [2 * a / t for a, t in zip(A, LENGTHS, strict=True)],
    "rloo": [a * 4 / 3 / 100 for a in A],
    "dapo": [2 * a * 8 / 255 for a in A],
    "cispo": [2 * a * 8 / 255 for a in A],
    "gspo": [2 * a / t for a, t in zip(A, LENGTHS, strict=True)],
    "gspo_token": [2 * a / t for a, t in zip(A, LENGTHS, strict=True)],
    # right (1 - 1/4) / (1/4) = 3, wrong -1; then right (1 - 3/4) / (3/4) = 1/3, wrong -1
    "maxrl": [a / 100 for a in (3, 1, 1, 1, 1 / 3, 1 / 3, 1 / 3, 1)],
    # deviation of four ones and four zeros, divisor 7: sqrt(8 / 28)
    "lite_ppo": [a / (2 / 7) ** 0.5 * 8 / 255 for a in A],
    # 65 of 255 tokens have reward 1: mean 13/51, variance 65 * 190 / 255 / 254
    "reinforce_pp": [abs(r - 13 / 51) / (65 * 190 / 255 / 254) ** 0.5 * 8 / 255 for r in REWARDS.tolist()],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_weights_by_hand(name: str) -> None:
    algo = load(name)
    assert measured(algo, rollout_of(algo)) == pytest.approx(BY_HAND[name], rel=1e-6)


def test_masks_credit_and_own_advantages_are_in_it() -> None:
    algo = load("drgrpo")
    mask = [torch.ones(n, dtype=torch.bool) for n in LENGTHS]
    mask[3][:] = False  # left out, as algo.truncated=exclude does
    mask[2][10:] = False  # 30 of 40 tokens are a tool's
    expected = list(BY_HAND["drgrpo"])
    expected[3], expected[2] = 0.0, expected[2] * 10 / 40
    assert measured(algo, rollout_of(algo, mask=mask)) == pytest.approx(expected, rel=1e-6)

    credit = [torch.linspace(0, 2, n) for n in LENGTHS]  # mean 1: the sum stays
    credit[7] = 3 * torch.ones(80)
    expected = list(BY_HAND["drgrpo"])
    expected[7] *= 3
    assert measured(algo, rollout_of(algo, credit=credit)) == pytest.approx(expected, rel=1e-6)

    batch = rollout_of(algo)
    batch.advantages = torch.tensor([-2.0] + [0.0] * 7)
    assert measured(algo, batch) == pytest.approx([0.02] + [0.0] * 7)


def test_a_token_mean_counts_the_tokens_that_are_trained() -> None:
    algo = load("dapo")
    mask = [torch.ones(n, dtype=torch.bool) for n in LENGTHS]
    mask[7][:] = False
    expected = [w * 255 / 175 for w in BY_HAND["dapo"]]
    expected[7] = 0.0
    assert measured(algo, rollout_of(algo, mask=mask)) == pytest.approx(expected, rel=1e-6)


def test_an_objective_of_the_users_is_measured() -> None:
    """Weights that fall with the square of the length."""

    def own(v: TokenValues, s: Scale, a: AlgoConfig) -> Loss:
        lengths = v.mask.sum(1, keepdim=True)
        return Loss((-v.new * v.advantages * v.mask / lengths**2).sum() / s.num_responses)

    algo = load("drgrpo")
    found = response_weights(own, algo, Scale(8, 255, 100.0), rollout_of(algo))
    assert found.tolist() == pytest.approx([a / t for a, t in zip(A, LENGTHS, strict=True)], rel=1e-6)


def test_kl_and_entropy_terms_are_left_out() -> None:
    """k1 has a gradient even where policy and reference are equal."""
    algo = load("drgrpo")
    algo.kl_coef, algo.kl_estimator, algo.entropy_coef = 0.5, KLEstimator.k1, 0.1
    assert measured(algo, rollout_of(algo)) == pytest.approx(BY_HAND["drgrpo"], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_gradient_that_the_learner_has(name: str) -> None:
    """-B dL/dlogp, caught in the backward pass of a real learner whose policy has not moved."""
    algo = load(name)
    algo.minibatch_size = 16
    prompts, batch = random_prompts(5, 4), random_rollout(5, sampler=True, exclude_truncated=True)
    draw = torch.Generator().manual_seed(1)
    batch.credit = [1 + torch.rand(len(c.ids), generator=draw) for c in batch.completions]
    batch.advantages = advantages_of(algo, batch)
    caught: dict[int, float] = {}

    def spy(values: TokenValues, scale: Scale, algo: AlgoConfig) -> Loss:
        def keep(slope: torch.Tensor, rows: list[int] = rows) -> None:
            caught.update(zip(rows, (16 * slope).abs().sum(1).tolist(), strict=True))

        values.new.register_hook(keep)
        return policy_gradient(values, scale, algo)

    policy = random_policy(layers=1).double()
    learner = Learner(policy, None, algo, objective=spy, temperature=1.0, constant=9.0, max_tokens=40)
    tokens = trained_tokens(batch)
    for rows, micro in learner.passes(prompts, batch, list(range(16)), torch.device("cpu")):
        learner.loss(batch, rows, micro, None, tokens, Tally()).backward()
    found = response_weights(policy_gradient, algo, Scale(16, tokens, 9.0), batch)
    assert found.tolist() == pytest.approx([caught[i] for i in range(16)], rel=1e-9, abs=1e-12)
    assert (found > 0).any()
