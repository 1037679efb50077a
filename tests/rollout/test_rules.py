"""Advantage and credit functions of the user's own: tried out at the start, given a batch they may write into."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from objective_support import algo_config, random_rollout
from r1zero.errors import UserError
from r1zero.rollout.rules import Rules, try_rules

IDEAS = """
import torch


def centred(groups):
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


def one_short(batch):
    return batch.rewards[1:]


def no_epsilon(batch):
    groups = batch.rewards.view(-1, batch.group_size)
    return ((groups - groups.mean(1, keepdim=True)) / groups.std(1, keepdim=True)).flatten()


def misspelled(batch):
    return batch.reward


def unknown_name(batch):
    return rewards


def of_a_column(batch):
    return torch.tensor([question.meta["level"] for question in batch.questions])


def three_weights(batch):
    return [torch.ones(3) for _ in batch.completions]


def with_default(batch, group_size=4):
    assert len(batch.completions) % group_size == 0
    return centred(batch.rewards.view(-1, group_size))


def by_keyword(rewards, *, group_size):
    return centred(rewards.view(-1, group_size))


def by_position(rewards, size):
    return centred(rewards.view(-1, size))


def writes(batch):
    batch.right[:] = True
    batch.mask[0][:] = False
    batch.rewards -= batch.rewards.view(-1, batch.group_size).mean(1).repeat_interleave(batch.group_size)
    return batch.rewards


def writes_credit(batch, *, decode):
    batch.advantages *= 100
    return [torch.ones(len(ids)) for ids in batch.tokens]
"""


@pytest.fixture(autouse=True)
def ideas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_rules.py").write_text(IDEAS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_rules", None)


def decode(ids: object) -> str:
    return str(ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"advantage": "own_rules.one_short"}, r"one_short: .* shape \(7,\); \(8,\) is needed"),
        ({"advantage": "own_rules.no_epsilon"}, "gave nan for response .*; advantages must be finite"),
        ({"advantage": "own_rules.misspelled"}, "no attribute 'reward'"),
        ({"advantage": "own_rules.unknown_name"}, "name 'rewards' is not defined"),
        ({"credit": "own_rules.three_weights"}, r"three_weights: .* weights of shape \(3,\)"),
        ({"advantage": "own_rules.absent"}, "has no function absent"),
    ],
)
def test_a_fault_is_told_before_anything_is_sampled(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        try_rules(algo_config("drgrpo", **settings), questions=2, group_size=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["of_a_column", "with_default", "by_keyword", "by_position", "writes"])
def test_what_may_be_right_is_let_through(name: str) -> None:
    try_rules(algo_config("drgrpo", advantage=f"own_rules.{name}"), questions=1, group_size=2)


@pytest.mark.parametrize("name", ["with_default", "by_keyword", "by_position", "writes"])
def test_every_form_of_a_function_gives_what_the_built_in_gives(name: str) -> None:
    rollout = random_rollout(1)
    built_in = Rules(algo_config("drgrpo"), decode).advantages(rollout)
    own = Rules(algo_config("drgrpo", advantage=f"own_rules.{name}"), decode).advantages(rollout)
    assert torch.allclose(own, built_in, atol=1e-6)
    assert own.abs().sum() > 0


def test_a_function_that_writes_into_the_batch_changes_nothing_of_the_run() -> None:
    rollout = random_rollout(1)
    rules = Rules(algo_config("drgrpo", advantage="own_rules.writes", credit="own_rules.writes_credit"), decode)
    rollout.advantages = rules.advantages(rollout)
    before, rewards = rollout.fingerprint(), rollout.rewards.clone()
    weights = rules.token_weights(rollout)
    assert weights is not None
    assert rollout.fingerprint() == before
    assert torch.equal(rollout.rewards, rewards)
    assert replace(rollout, credit=weights).fingerprint() != before
