"""Which responses go into which step and which pass (semantics 9; trap 13)."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1zero.algo.batching import micro_batches, minibatches, packed_batches


def test_each_epoch_takes_every_response_once_in_an_order_of_its_own() -> None:
    steps = list(minibatches(24, 8, 3, seed=5))
    assert [len(s) for s in steps] == [8] * 9
    orders = [torch.cat(steps[3 * e : 3 * e + 3]).tolist() for e in range(3)]
    for order in orders:
        assert sorted(order) == list(range(24))
    assert len({tuple(order) for order in orders}) == 3


def test_order_follows_the_seed_and_nothing_else() -> None:
    """The same on every rank, whatever was drawn from the global generator before."""
    torch.manual_seed(1)
    first = [s.tolist() for s in minibatches(16, 4, 2, seed=9)]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert [s.tolist() for s in minibatches(16, 4, 2, seed=9)] == first
    assert torch.equal(torch.get_rng_state(), state)
    assert [s.tolist() for s in minibatches(16, 4, 2, seed=10)] != first


def test_groups_are_spread_over_minibatches() -> None:
    """Advantages are known before the shuffle, so a group need not stay together."""
    steps = list(minibatches(64, 16, 1, seed=0))
    assert any(len({i // 8 for i in s.tolist()}) > 2 for s in steps)
    assert [sorted(s.tolist()) for s in steps] != [list(range(k, k + 16)) for k in range(0, 64, 16)]


@pytest.mark.parametrize("size", [0, 5, 24])
def test_a_minibatch_must_divide_the_rollout(size: int) -> None:
    with pytest.raises(ValueError, match="does not divide 16"):
        list(minibatches(16, size, 1, seed=0))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_passes_cover_every_response_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= budget or len(batch) == 1
    tops = [max(lengths[i] for i in batch) for batch in batches]
    assert tops == sorted(tops, reverse=True)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_packed_passes_cover_every_response_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = packed_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    totals = [sum(lengths[i] for i in batch) for batch in batches]
    assert all(total <= budget or len(batch) == 1 for total, batch in zip(totals, batches, strict=True))
    assert all(a + b > budget for a, b in itertools.combinations(totals, 2)), "no two would fit into one"


def test_packed_passes_by_hand() -> None:
    assert packed_batches([30, 70, 40, 60, 120], 100) == [[4], [1, 0], [3, 2]]


def test_a_pass_is_filled_up() -> None:
    assert micro_batches([3, 10, 4, 10, 3], 20) == [[1, 3], [2, 0, 4]]
    assert micro_batches([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]
    assert micro_batches([], 10) == []


def test_no_grouping_costs_less() -> None:
    """Against all ways to cut the sorted lengths, with what a pass costs counted."""
    rng = random.Random(0)
    for _ in range(40):
        lengths = [rng.randint(1, 30) for _ in range(rng.randint(1, 9))]
        budget, extra = rng.randint(20, 120), rng.choice([0, 3, 20])
        ordered = sorted(lengths, reverse=True)
        costs = []
        for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
            bounds = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(ordered)]
            groups = [ordered[a:b] for a, b in itertools.pairwise(bounds)]
            if all(len(g) == 1 or g[0] * len(g) <= budget for g in groups):
                costs.append(sum(g[0] * len(g) + extra for g in groups))
        batches = micro_batches(lengths, budget, extra)
        assert sum(max(lengths[i] for i in b) * len(b) + extra for b in batches) == min(costs)


def test_one_long_response_does_not_stretch_the_others() -> None:
    """A hundred responses of 30 tokens and one of 190 fit one pass of 20,000 tokens; five sixths would be padding."""
    lengths = [30] * 100 + [190]
    batches = micro_batches(lengths, 20000)
    assert batches == [[100], list(range(100))]
    assert sum(max(lengths[i] for i in b) * len(b) for b in batches) < 1.01 * sum(lengths)
