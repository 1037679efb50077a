"""An objective of the user's own, from a file beside train.py to the weights; RLOO is Dr. GRPO up to a factor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from objective_support import algo_config, fit, make_module, random_policy, random_prompts, random_rollout, weights
from r1zero.algo.advantages import group, leave_one_out
from r1zero.algo.stats import Tally
from r1zero.algo_config import AlgoConfig, Clip, LengthNorm, Ratio
from r1zero.batch import RolloutBatch
from r1zero.errors import UserError
from r1zero.learn.objective import configured_objective
from r1zero.learn.policy import Policy
from r1zero.learn.step import Learner

GSPO = '''
import torch

from r1zero.algo import Loss


def gspo(values, scale, algo):
    """One ratio a response, the geometric mean of its tokens' (GSPO eq. 5 and 7)."""
    lengths = values.mask.sum(dim=1, keepdim=True).clamp(min=1)
    drift = torch.where(values.mask, values.new - values.old, 0.0)
    ratio = torch.exp(drift.sum(dim=1, keepdim=True) / lengths)
    plain = ratio * values.advantages
    clipped = ratio.clamp(1 - algo.clip_low, 1 + algo.clip_high) * values.advantages
    losses = torch.where(values.mask, -torch.minimum(plain, clipped), 0.0)
    value = (losses.sum(dim=1) / lengths[:, 0]).sum() / scale.num_responses
    return Loss(value, {"mine/ratio": (ratio.expand_as(plain), values.mask)})


def of_the_pass(values, scale, algo):
    return Loss((-values.new * values.advantages * values.mask).sum() / values.mask.sum())


def pushes_all(values, scale, algo, size=0.01):
    return Loss((-values.new * (values.advantages + size) * values.mask).sum() / scale.num_tokens)


pushes_all.moves_without_advantage = True


def takes_a_name(values, scale, algo):
    return Loss(gspo(values, scale, algo).value, {"policy/entropy": (values.new, values.mask)})
'''


@pytest.fixture
def ideas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module with the functions above, in the folder that a command is started in."""
    (tmp_path / "own_objectives.py").write_text(GSPO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "own_objectives"
    sys.modules.pop("own_objectives", None)


def trained(**settings: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Three rollout steps of four optimizer steps each."""
    bounds = {"clip_low": 3e-4, "clip_high": 4e-4}
    algo = AlgoConfig(name="x", minibatch_size=4, length_norm=LengthNorm.response, **(bounds | settings))
    module = make_module(random_policy(), algo, micro_batch_tokens=20)
    history = fit(module, lambda step: random_rollout(step, std_norm=True, flat_groups=(step,)), 3)
    return weights(module.policy), history


def test_gspo_in_a_file_of_ones_own_is_the_built_in_to_the_last_bit(ideas: str) -> None:
    assert len(GSPO[: GSPO.index("def of_the_pass")].strip().splitlines()) <= 25
    built_in, by_settings = trained(ratio=Ratio.sequence)
    own, by_file = trained(loss=f"{ideas}.gspo")
    assert all(torch.equal(built_in[name], own[name]) for name in built_in)
    assert [row["loss/policy"] for row in by_settings] == [row["loss/policy"] for row in by_file]
    assert by_settings[-1]["policy/clip_frac"] > 0.1
    # What it reports is a metric; it differs from 1 where the policy has moved.
    assert abs(by_file[-1]["mine/ratio"] - 1) > 1e-6
    other, _ = trained()
    assert not all(torch.equal(built_in[name], other[name]) for name in built_in)


def test_one_that_depends_on_the_cut_is_refused_with_the_line_to_mend(ideas: str) -> None:
    with pytest.raises(UserError, match=r"micro-batch's own token count .*; use scale.num_tokens") as caught:
        make_module(random_policy(layers=1), algo_config("drgrpo", loss=f"{ideas}.of_the_pass"))
    assert str(caught.value).startswith(f"algo.loss={ideas}.of_the_pass: your loss divides by")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "gsop"}, "algo.loss=gsop is unknown; choose policy_gradient, or the import path"),
        ({"loss": "nowhere.gspo"}, "there is no module 'nowhere'"),
        ({"loss": "own_objectives.gsop"}, "has no function gsop"),
        ({"loss": "own_objectives.gspo", "loss_params": {"beta": 1}}, "algo.loss_params do not fit"),
        ({"loss_params": {"beta": 1}}, "algo.loss_params do not fit policy_gradient"),
    ],
)
def test_what_is_no_objective_is_one_line(ideas: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        configured_objective(algo_config("drgrpo", **settings))
    assert "\n" not in str(caught.value)


def test_responses_without_advantage_are_computed_where_the_objective_says_so(ideas: str) -> None:
    rollout = random_rollout(1, questions=2, group=2, flat_groups=(0,))
    policy = random_policy(layers=1)
    for loss, expected in (("pushes_all", [True] * 4), ("gspo", [False, False, True, True])):
        algo = algo_config("drgrpo", loss=f"{ideas}.{loss}", loss_params={"size": 0.1} if loss == "pushes_all" else {})
        learner = Learner(
            policy, None, algo, objective=configured_objective(algo), temperature=1.0, constant=9.0, max_tokens=99
        )
        assert [learner.has_gradient(rollout, i) for i in range(4)] == expected


# -- RLOO and Dr. GRPO ----------------------------------------------------------------------------------------------


def gradient(policy: Policy, rollout: RolloutBatch, algo: AlgoConfig) -> dict[str, torch.Tensor]:
    """Of one optimizer step on responses that this policy sampled."""
    for parameter in policy.parameters():
        parameter.grad = None
    learner = Learner(policy, None, algo, temperature=1.0, constant=9.0, max_tokens=1000)
    indices = list(range(len(rollout.completions)))
    prompts = random_prompts(1, len(indices) // rollout.group_size)
    for rows, micro in learner.passes(prompts, rollout, indices, torch.device("cpu")):
        learner.loss(rollout, rows, micro, None, 0, Tally()).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


RLOO = AlgoConfig(name="rloo", ratio=Ratio.none, clip=Clip.none, minibatch_size=16, advantage="leave_one_out")
DR_GRPO = AlgoConfig(name="drgrpo", minibatch_size=16)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_rloo_is_dr_grpo_at_a_higher_learning_rate(size: int) -> None:
    """Gradients differ by the factor G / (G - 1), so plain gradient descent takes the same step at a rate that much
    higher. At G = 2 the factor is exact in binary and so are all weights; else up to the rounding of the advantages.

    AdamW divides by the gradient's own size: it takes the same step at the *same* rate but for its epsilon, so there
    the two differ through gradient clipping alone.
    """
    policy = random_policy(layers=1).double()
    rollout = random_rollout(1, questions=16 // size, group=size)
    rollout.advantages = group(rollout)
    dr_grpo = gradient(policy, rollout, DR_GRPO)
    rollout.advantages = leave_one_out(rollout)
    rloo = gradient(policy, rollout, RLOO)
    factor = size / (size - 1)
    for name, slope in rloo.items():
        if size == 2:
            assert torch.equal(slope, factor * dr_grpo[name])
        else:
            assert (slope - factor * dr_grpo[name]).abs().max() < 1e-6 * slope.abs().max()
    start = weights(policy)
    stepped: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for name, slopes, rate in (("rloo", rloo, 0.1), ("drgrpo", dr_grpo, 0.1 * factor), ("same rate", dr_grpo, 0.1)):
        for rule, optimizer in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)):
            moving = [torch.nn.Parameter(value.clone()) for value in start.values()]
            for parameter, slope in zip(moving, slopes.values(), strict=True):
                parameter.grad = slope
            settings: dict[str, Any] = {} if rule == "sgd" else {"eps": 1e-30, "weight_decay": 0.0}
            optimizer(moving, lr=rate, **settings).step()
            stepped[name, rule] = dict(zip(start, (p.detach() for p in moving), strict=True))
    for name in start:
        difference = (stepped["rloo", "sgd"][name] - stepped["drgrpo", "sgd"][name]).abs().max()
        assert difference <= (0.0 if size == 2 else 1e-7 * rloo[name].abs().max())
        moved = slopes_above_rounding(rloo[name])
        assert torch.allclose(
            stepped["rloo", "adamw"][name][moved], stepped["same rate", "adamw"][name][moved], rtol=1e-6, atol=1e-9
        )


def slopes_above_rounding(slope: torch.Tensor) -> torch.Tensor:
    """Where a gradient has a sign: Adam makes a full step of one that is all rounding."""
    return slope.abs() > 1e-6 * slope.abs().max()


def test_a_figure_may_not_bear_the_name_of_one_of_the_learners(ideas: str) -> None:
    with pytest.raises(UserError, match="its figure 'policy/entropy' is one of the learner's"):
        configured_objective(algo_config("drgrpo", loss=f"{ideas}.takes_a_name"))


class Change(pl.Callback):
    """Seals a rollout as the collector does, then multiplies its advantages."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch.rollout.sealed = batch.rollout.fingerprint()
        batch.rollout.advantages *= self.factor


def test_a_rollout_that_was_changed_after_the_collector_is_refused() -> None:
    """What is recorded and measured is what is learned: a callback can't slip another advantage in."""
    module = make_module(random_policy(), algo_config("drgrpo", minibatch_size=16), micro_batch_tokens=200)
    fit(module, random_rollout, 1, callbacks=[Change(1.0)])
    with pytest.raises(UserError, match="a callback changed advantages, masks, credit or tokens"):
        fit(module, random_rollout, 1, callbacks=[Change(2.0)])
