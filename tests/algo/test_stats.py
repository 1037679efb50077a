"""Figures over micro-batches and ranks (traps 2.1: the figures of a step are not those of its last micro-batch)."""

from __future__ import annotations

import math

import pytest
import torch

from r1zero.algo.stats import Tally, check_finite, rollout_summary
from r1zero.errors import UserError


def reduced(*tallies: Tally) -> dict[str, float]:
    """Reduce as ranks would: each asks in the same order and gets the sum or maximum of all."""
    calls: list[list[torch.Tensor]] = [[] for _ in tallies]
    for number, tally in enumerate(tallies):
        tally.reduce(lambda values, how, n=number: calls[n].append(values.clone()) or values)  # type: ignore[misc]
    answers = iter(
        [
            torch.stack(per_call).sum(0) if index == 0 else torch.stack(per_call).amax(0)
            for index, per_call in enumerate(zip(*calls, strict=True))
        ]
    )
    return tallies[0].reduce(lambda values, how: next(answers))


def test_a_mean_is_over_values_not_over_micro_batches() -> None:
    tally = Tally()
    tally.mean("x", torch.tensor([1.0, 1.0, 1.0]))
    tally.mean("x", torch.tensor([9.0]))
    assert tally.reduce()["x"] == 3.0
    assert tally.current_mean("x") == 3.0


def test_a_mean_over_ranks_is_over_values_not_over_ranks() -> None:
    """Trap 4."""
    one, two = Tally(), Tally()
    one.mean("x", torch.tensor([1.0, 1.0, 1.0]))
    two.mean("x", torch.tensor([9.0]))
    one.total("n", 2)
    two.total("n", 5)
    one.maximum("m", torch.tensor([4.0, -1.0]))
    two.maximum("m", torch.empty(0))
    assert reduced(one, two) == {"x": 3.0, "n": 7.0, "m": 4.0}


def test_masked_values_do_not_count() -> None:
    tally = Tally()
    tally.mean("x", torch.tensor([[1.0, 100.0], [3.0, 100.0]]), torch.tensor([[True, False], [True, False]]))
    assert tally.reduce()["x"] == 2.0


def test_nothing_counted_is_nan_and_tells_itself_from_a_nan() -> None:
    tally = Tally()
    tally.mean("empty", torch.empty(0))
    tally.mean("bad", torch.tensor([1.0, math.nan]))
    tally.maximum("none", torch.empty(0))
    figures = tally.reduce()
    assert all(math.isnan(figures[name]) for name in ("empty", "none"))
    assert figures["bad"] == math.inf
    check_finite({name: figures[name] for name in ("empty", "none")}, "step 1", "")
    with pytest.raises(UserError, match=r"^step 1: bad came out as NaN or infinite: mend it$"):
        check_finite(figures, "step 1", "mend it")
    assert tally.current_mean("empty") is None
    assert math.isnan(tally.current_mean("bad") or 0.0)


@pytest.mark.parametrize("order", [(math.nan, 1.0), (1.0, math.nan)])
def test_a_nan_is_not_lost_in_a_maximum(order: tuple[float, float]) -> None:
    """Comparisons with NaN are false, so max() would keep the other value."""
    for values in (list(order), [torch.tensor([v]) for v in order], [torch.tensor(order)]):
        tally = Tally()
        for value in values:
            tally.maximum("m", value)
        assert tally.reduce()["m"] == math.inf


def test_values_carry_no_graph() -> None:
    tally = Tally()
    tally.mean("x", torch.ones(3, requires_grad=True))
    tally.maximum("m", torch.ones(3, requires_grad=True))
    assert tally.reduce() == {"x": 1.0, "m": 1.0}


def test_summary_of_a_rollout_by_hand() -> None:
    """Three groups of two: (right, wrong), (right, right), (wrong, wrong)."""
    rewards = torch.tensor([1.0, 0, 1, 1, 0, 0])
    lengths = torch.tensor([10.0, 20, 30, 40, 50, 60])
    truncated = torch.tensor([False, False, False, False, True, True])
    advantages = torch.tensor([0.5, -0.5, 0, 0, 0, 0])
    tally = Tally()
    rollout_summary(tally, rewards, rewards > 0.5, lengths, truncated, advantages, 2)
    assert tally.reduce() == pytest.approx(
        {
            "reward/mean": 0.5,
            "reward/second_moment": 0.5,
            "length/mean": 35.0,
            "length/max": 60.0,
            "length/correct": 80 / 3,
            "length/incorrect": 130 / 3,
            "length/truncated_frac": 1 / 3,
            "group/zero_advantage_frac": 2 / 3,
            "group/all_correct_frac": 1 / 3,
            "group/none_correct_frac": 1 / 3,
        }
    )


def test_lengths_of_a_kind_that_is_missing_are_nan() -> None:
    tally = Tally()
    no = torch.zeros(2).bool()
    rollout_summary(tally, torch.ones(2), ~no, torch.tensor([3.0, 4.0]), no, torch.zeros(2), 2)
    figures = tally.reduce()
    assert figures["length/correct"] == 3.5
    assert math.isnan(figures["length/incorrect"])
