"""Advantages by hand (semantics 2; traps 5, 7, 8, 9, 11, 12, 14)."""

from __future__ import annotations

import math
import threading

import pytest
import torch

from r1zero.algo import advantages as advantages_file
from r1zero.algo.advantages import ADVANTAGES, group_advantages, overlong_penalty
from r1zero.batch import Completion, RolloutBatch


def advantages(rewards: list[float], group: int, std_norm: bool = False) -> list[float]:
    return group_advantages(torch.tensor(rewards), group, std_norm=std_norm).tolist()


@pytest.mark.parametrize(
    ("right", "drgrpo", "grpo"),
    [
        # std of r ones among 8, divisor 7: sqrt(r (8 - r) / 56)
        (1, (7 / 8, -1 / 8), (7 / 8 / math.sqrt(7 / 56), -1 / 8 / math.sqrt(7 / 56))),
        (4, (1 / 2, -1 / 2), (1 / 2 / math.sqrt(16 / 56), -1 / 2 / math.sqrt(16 / 56))),
        (7, (1 / 8, -7 / 8), (1 / 8 / math.sqrt(7 / 56), -7 / 8 / math.sqrt(7 / 56))),
    ],
)
def test_eight_responses_by_hand(right: int, drgrpo: tuple[float, float], grpo: tuple[float, float]) -> None:
    rewards = [1.0] * right + [0.0] * (8 - right)
    for std_norm, (high, low) in ((False, drgrpo), (True, grpo)):
        expected = [high] * right + [low] * (8 - right)
        assert advantages(rewards, 8, std_norm) == pytest.approx(expected, rel=1e-6)


def test_the_rounded_figures_of_the_specification() -> None:
    table = {1: (2.475, -0.354), 4: (0.935, -0.935), 7: (0.354, -2.475)}
    for right, (high, low) in table.items():
        found = advantages([1.0] * right + [0.0] * (8 - right), 8, std_norm=True)
        assert (round(found[0], 3), round(found[-1], 3)) == (high, low)


def test_epsilon_is_added_to_the_unbiased_deviation() -> None:
    """G = 2, rewards 2e-8 apart: std = sqrt(2)e-8 is as small as the 1e-8 beside it, which 1e-4 or 0 would not be."""
    found = group_advantages(torch.tensor([0.0, 2e-8], dtype=torch.float64), 2, std_norm=True)
    expected = 1e-8 / (math.sqrt(2) * 1e-8 + 1e-8)
    assert found.tolist() == pytest.approx([-expected, expected], rel=1e-6)


def test_deviation_divides_by_one_less() -> None:
    """Two responses: (1 - 1/2) / sqrt(1/2) = 0.7071; the biased deviation would give 1."""
    assert advantages([1, 0], 2, std_norm=True) == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-6)


@pytest.mark.parametrize("std_norm", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 0.1, 1 / 3, 1e30])
def test_equal_rewards_give_exactly_zero(std_norm: bool, value: float) -> None:
    """Traps 8, 9, 11: never NaN, and not the last-bit difference of a rounded mean either."""
    for group in (2, 3, 7, 10):
        assert advantages([value] * group, group, std_norm) == [0.0] * group
        exact = torch.full((group,), value, dtype=torch.float64)
        assert group_advantages(exact, group, std_norm=std_norm).tolist() == [0.0] * group


def test_groups_are_normalised_alone() -> None:
    """Trap 9: [1, 1] and [0, 0] teach nothing; over the whole batch they would."""
    assert advantages([1, 1, 0, 0], 2, std_norm=True) == [0, 0, 0, 0]


def test_dr_grpo_is_the_centred_reward_alone() -> None:
    """Traps 5, 12: no deviation in it, and the group stays whole."""
    assert advantages([1, 0, 0, 0], 4) == [0.75, -0.25, -0.25, -0.25]


def test_groups_go_by_index_not_by_text() -> None:
    """Trap 14: the same question twice in a step is two groups with baselines of their own."""
    assert advantages([1, 0, 1, 1], 2) == [0.5, -0.5, 0, 0]
    assert advantages([1, 0, 1, 1], 4) == [0.25, -0.75, 0.25, 0.25]


def test_advantages_of_a_group_sum_to_zero() -> None:
    """Trap 7: a loss near 0 on-policy is no fault, the gradient is not 0."""
    rewards = torch.rand(40, generator=torch.Generator().manual_seed(0))
    for std_norm in (False, True):
        sums = group_advantages(rewards, 8, std_norm=std_norm).view(-1, 8).sum(dim=1)
        assert sums.abs().max() < 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_not_finite_are_refused(bad: float) -> None:
    """Trap 8: one NaN must not spread over its group in silence."""
    with pytest.raises(ValueError, match="finite"):
        advantages([1.0, bad, 0.0, 0.0], 4)


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        advantages([1.0, 0.0], 1)


def test_ragged_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="whole groups of 4"):
        advantages([1.0, 0.0, 1.0], 4)


def test_the_input_may_be_of_any_float_type() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        found = group_advantages(torch.tensor([1, 0, 0, 0], dtype=dtype), 4, std_norm=False)
        assert found.dtype == torch.float32
        assert found.tolist() == [0.75, -0.25, -0.25, -0.25]


# -- the published ones, by hand --------------------------------------------------------------------------------------


def batch_of(rewards: list[float], lengths: list[int], group: int, excluded: tuple[int, ...] = ()) -> RolloutBatch:
    completions = [Completion([1] * n, "", "stop") for n in lengths]
    mask = [torch.full((n,), i not in excluded) for i, n in enumerate(lengths)]
    values = torch.tensor(rewards)
    return RolloutBatch(completions, group, 0, values, values == 1, mask)


# Two groups of three, 15 tokens, of which 8 have reward 1.
HAND = ([1.0, 0, 0, 1, 1, 0], [2, 3, 1, 2, 4, 3], 3)
PUBLISHED = {
    "group": [2 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, -2 / 3],
    "leave_one_out": [1, -1 / 2, -1 / 2, 1 / 2, 1 / 2, -1],
    # mean 8/15; variance (8 (7/15)^2 + 7 (8/15)^2) / 14 = 4/15
    "batch_norm": [(r - 8 / 15) / math.sqrt(4 / 15) for r in (1, 0, 0, 1, 1, 0)],
    # centred rewards: mean over tokens (4 - 3 - 1 + 2 + 4 - 6) / 3 / 15 = 0, variance 30/9/14 = 5/21
    "group_then_batch_norm": [a / math.sqrt(5 / 21) for a in (2 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, -2 / 3)],
    # three rewards of 1 among six: variance 6 (1/2)^2 / 5 = 3/10
    "group_mean_batch_std": [a / math.sqrt(3 / 10) for a in (2 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, -2 / 3)],
    "mean_norm": [2, -1, -1, 1 / 2, 1 / 2, -1],
}


@pytest.mark.parametrize("name", ADVANTAGES)
def test_published_advantages_by_hand(name: str) -> None:
    found = ADVANTAGES[name](batch_of(*HAND))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(PUBLISHED[name], rel=1e-6)


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_a_step_of_equal_rewards_teaches_nothing(name: str, reward: float) -> None:
    found = ADVANTAGES[name](batch_of([reward] * 6, [2, 3, 1, 2, 4, 3], 3))
    assert found.tolist() == [0.0] * 6


def test_only_a_mean_over_the_step_makes_a_group_of_equal_rewards_teach() -> None:
    rewards, lengths = [1.0, 1, 1, 1, 0, 0], [2, 3, 1, 2, 4, 3]
    for name, function in ADVANTAGES.items():
        first = function(batch_of(rewards, lengths, 3))[:3]
        assert bool(first.any()) == (name in ("batch_norm", "group_then_batch_norm")), name


def test_tokens_that_are_not_trained_do_not_count_in_the_batch() -> None:
    """Response 4, right, is left out: 4 of 11 tokens have reward 1."""
    found = ADVANTAGES["batch_norm"](batch_of(*HAND, excluded=(4,)))
    std = math.sqrt((4 * (7 / 11) ** 2 + 7 * (4 / 11) ** 2) / 10)
    assert found.tolist() == pytest.approx([(r - 4 / 11) / std for r in (1, 0, 0, 1, 1, 0)], rel=1e-6)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_two_ranks_have_the_advantages_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank is a thread; a sum over ranks waits for both."""
    meeting, parts = threading.Barrier(2), {}

    def both(values: torch.Tensor) -> torch.Tensor:
        parts[threading.current_thread().name] = values
        meeting.wait()
        total = sum(parts[rank] for rank in ("0", "1"))
        meeting.wait()
        return total  # type: ignore[return-value]

    whole = ADVANTAGES[name](batch_of(*HAND))
    monkeypatch.setattr(advantages_file, "sum_over_ranks", both)
    rewards, lengths, size = HAND
    halves = [batch_of(rewards[i : i + 3], lengths[i : i + 3], size) for i in (0, 3)]
    found: dict[int, torch.Tensor] = {}
    ranks = [
        threading.Thread(target=lambda i=i: found.update({i: ADVANTAGES[name](halves[i])}), name=str(i)) for i in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=60)
    assert torch.cat([found[0], found[1]]).tolist() == pytest.approx(whole.tolist(), rel=1e-6)


def test_rewards_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="no reward may be negative"):
        ADVANTAGES["mean_norm"](batch_of([1.0, -1.0], [1, 1], 2))
    for name, function in ADVANTAGES.items():
        if name != "mean_norm":
            with pytest.raises(ValueError, match="finite"):
                function(batch_of([1.0, math.nan], [1, 1], 2))


def test_overlong_penalty_by_hand() -> None:
    """L_max 10, the last fifth: nothing up to 8 tokens, half at 9, all at 10 and beyond."""
    found = overlong_penalty(torch.tensor([1.0, 8, 8.5, 9, 10, 12]), 10, 0.2)
    assert found.tolist() == pytest.approx([0, 0, -0.25, -0.5, -1, -1])
    # DAPO's own numbers: 20,480 tokens, of which the last 4,096.
    assert overlong_penalty(torch.tensor([16384.0, 18432, 20480]), 20480, 0.2).tolist() == pytest.approx([0, -0.5, -1])
