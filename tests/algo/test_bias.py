"""The biases as numbers: hand-worked weights of the four algorithms, sums over ranks, the exact control."""

from __future__ import annotations

import math

import pytest
import torch

from r1zero.algo.bias import (
    RUNNING,
    VARIANTS,
    BiasBins,
    BiasSums,
    question_weights,
    ramble_gradient,
    token_weights,
)
from r1zero.algo.loss import aggregate, clipped_surrogate

# Two groups of G = 4: one right of four (hard), three right of four (easy). C = 100 tokens.
REWARDS = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0])
LENGTHS = torch.tensor([10.0, 20, 40, 50, 10, 20, 25, 80])
CENTRED = [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75]
STD = 0.5  # of (1, 0, 0, 0), divisor 3: sqrt((9/16 + 3/16) / 3)


def weights(name: str) -> torch.Tensor:
    length_norm, std_norm = VARIANTS[name]
    return token_weights(REWARDS, LENGTHS, 4, length_norm=length_norm, std_norm=std_norm, constant=100)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("drgrpo", [a / 100 for a in CENTRED]),
        ("grpo_no_length_norm", [a / STD / 100 for a in CENTRED]),
        ("grpo_no_std_norm", [a / t for a, t in zip(CENTRED, LENGTHS.tolist(), strict=True)]),
        ("grpo", [a / STD / t for a, t in zip(CENTRED, LENGTHS.tolist(), strict=True)]),
    ],
)
def test_token_weights_by_hand(name: str, expected: list[float]) -> None:
    assert weights(name).tolist() == pytest.approx(expected, rel=1e-6)


def test_question_weights_by_hand() -> None:
    """GRPO's pull is the mean |A|: no length in it. Dr. GRPO's grows with the tokens."""
    grpo = question_weights(weights("grpo"), LENGTHS, 4)
    assert grpo.tolist() == pytest.approx([0.75, 0.75], rel=1e-6)  # (1.5 + 3 * 0.5) / 4
    drgrpo = question_weights(weights("drgrpo"), LENGTHS, 4)
    hard = (0.75 * 10 + 0.25 * (20 + 40 + 50)) / 100 / 4
    easy = (0.25 * (10 + 20 + 25) + 0.75 * 80) / 100 / 4
    assert drgrpo.tolist() == pytest.approx([hard, easy], rel=1e-6)


def test_weights_are_the_gradient_of_the_loss_that_trains() -> None:
    """-N dL/dlogp of every token, by autograd through algo/loss.py, equals w_i for all algorithms (and DAPO)."""
    lengths = LENGTHS.long()
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    for length_norm, std_norm in [*VARIANTS.values(), ("token", True)]:
        from r1zero.algo.advantages import group_advantages

        logp = torch.full(mask.shape, -1.0, requires_grad=True)
        advantages = group_advantages(REWARDS, 4, std_norm=std_norm)[:, None]
        losses, _, _ = clipped_surrogate(logp, logp.detach(), advantages, clip_low=0.2, clip_high=0.2)
        loss = aggregate(
            losses, mask, length_norm=length_norm, constant=100, num_responses=8, num_tokens=int(lengths.sum())
        )
        loss.backward()
        assert logp.grad is not None
        expected = token_weights(REWARDS, LENGTHS, 4, length_norm=length_norm, std_norm=std_norm, constant=100)
        assert torch.allclose(-8 * logp.grad[:, 0].double(), expected, rtol=1e-5)


def sums_of(rewards: torch.Tensor, lengths: torch.Tensor, group: int, limit: int, bins: int = 16) -> BiasSums:
    """With the weights of Dr. GRPO as the running ones; right answers are those of reward 1."""
    running = token_weights(rewards, lengths, group, length_norm="constant", std_norm=False, constant=100).abs()
    return BiasBins(group, 100, limit, bins).sums(rewards, rewards == 1, lengths, running * lengths)


def test_the_running_objective_stands_beside_the_four() -> None:
    found = sums_of(REWARDS, LENGTHS, 4, 128)
    assert found.names == (*VARIANTS, RUNNING)
    metrics = found.metrics()
    for figure in ("length_slope", "extreme_share"):
        assert metrics[f"bias/{figure}/running"] == pytest.approx(metrics[f"bias/{figure}/drgrpo"], nan_ok=True)
    assert all(row["running"] == pytest.approx(row["drgrpo"]) for row in found.rows(128))


def test_groups_of_equal_rewards_weigh_nothing() -> None:
    for length_norm, std_norm in VARIANTS.values():
        found = token_weights(
            torch.ones(4), torch.tensor([1.0, 2, 3, 4]), 4, length_norm=length_norm, std_norm=std_norm, constant=9
        )
        assert found.tolist() == [0, 0, 0, 0]


def test_length_slope_is_minus_one_under_length_norm_and_zero_without() -> None:
    """Groups with one right answer each, so that difficulty does not mix in."""
    rewards = torch.tensor([1.0, 0, 0, 0] * 3)
    lengths = torch.tensor([9.0, 10, 20, 40, 9, 80, 160, 12, 9, 33, 44, 55])
    found = sums_of(rewards, lengths, 4, 200).metrics()
    for name, (length_norm, _) in VARIANTS.items():
        assert found[f"bias/length_slope/{name}"] == pytest.approx(-1.0 if length_norm == "response" else 0.0, abs=1e-6)


def test_std_norm_moves_weight_to_extreme_questions() -> None:
    """Claim (c) with equal lengths: 1 of 8 against 4 of 8 has 7/16 of the pull; with std norm sqrt(7/16)."""
    rewards = torch.tensor([1.0] + [0.0] * 7 + [1.0] * 4 + [0.0] * 4)
    found = sums_of(rewards, torch.full((16,), 30.0), 8, 200).metrics()
    plain, normed = 7 / 16, math.sqrt(7 / 16)
    for name, (_, std_norm) in VARIANTS.items():
        share = normed if std_norm else plain
        assert found[f"bias/extreme_share/{name}"] == pytest.approx(share / (1 + share), rel=1e-6)


def test_sums_of_two_ranks_are_the_sums_of_all() -> None:
    whole = sums_of(REWARDS, LENGTHS, 4, 128)
    parts = [sums_of(REWARDS[part], LENGTHS[part], 4, 128) for part in (slice(4), slice(4, None))]
    joined = whole.like(parts[0].flat() + parts[1].flat())
    assert torch.allclose(joined.flat(), whole.flat())
    assert joined.metrics() == pytest.approx(whole.metrics(), nan_ok=True)


def test_rows_hold_the_filled_bins() -> None:
    rows = sums_of(REWARDS, LENGTHS, 4, 128, bins=4).rows(128)
    tokens = {(r["answer"], r["low"]): r for r in rows if r["kind"] == "token"}
    assert {key: r["count"] for key, r in tokens.items()} == {
        ("wrong", 0.0): 1, ("wrong", 32.0): 2, ("wrong", 64.0): 1, ("right", 0.0): 4,
    }  # fmt: skip
    assert tokens["wrong", 32.0]["grpo"] == pytest.approx((0.5 / 40 + 0.5 / 50) / 2, rel=1e-6)
    questions = {r["low"]: r for r in rows if r["kind"] == "question"}
    assert set(questions) == {0.25, 0.75}
    assert questions[0.25]["grpo"] == pytest.approx(0.75, rel=1e-6)


def test_a_length_on_an_edge_and_one_beyond_the_limit_have_a_bin() -> None:
    rows = sums_of(torch.tensor([1.0, 0]), torch.tensor([16.0, 65.0]), 2, 64, bins=4).rows(64)
    assert [(r["low"], r["high"]) for r in rows if r["kind"] == "token"] == [(48.0, 64.0), (0.0, 16.0)]


@pytest.mark.parametrize(
    ("advantage", "length_norm", "expected"),
    [
        (-1.0, "response", +0.0052),  # visibly wrong under GRPO: ramble on
        (-1.0, "constant", 0.0),  # Dr. GRPO: no pull
        (+1.0, "response", -0.0052),  # visibly right under GRPO: be brief
        (0.0, "response", 0.0),  # blind: within a group the advantages cancel
    ],
)
def test_the_length_bias_acts_only_where_the_text_shows_the_error(
    advantage: float, length_norm: str, expected: float
) -> None:
    found = ramble_gradient(advantage, 0.8, 28, 4, length_norm=length_norm, constant=192)
    assert found == pytest.approx(expected, abs=5e-5 if expected else 1e-12)


def test_ramble_gradient_agrees_with_autograd_over_enumerated_texts() -> None:
    """Independent: differentiate sum_k P(k) w(k) log-probability-free, E[w] with w held fixed per text."""
    logit = torch.tensor(math.log(0.8 / 0.2), dtype=torch.float64, requires_grad=True)
    go_on = torch.sigmoid(logit)
    surrogate = torch.zeros((), dtype=torch.float64)
    for rambles in range(1, 400):
        log_p = (rambles - 1) * torch.log(go_on) + torch.log(1 - go_on)
        surrogate = surrogate + log_p.detach().exp() * log_p * (-1.0 / (28 + 4 * rambles))
    surrogate.backward()
    assert logit.grad is not None
    assert ramble_gradient(-1.0, 0.8, 28, 4, length_norm="response", constant=1) == pytest.approx(
        logit.grad.item(), rel=1e-9
    )
