"""The simulation of samplers, against steps counted by hand."""

from __future__ import annotations

import pytest

from r1zero.lab.plan.samplers import Outcome, continuous, decode, exact, lengths, sync_seconds, training_step


def one(batch: int) -> float:
    return 1.0


def test_a_batch_lasts_as_long_as_its_longest() -> None:
    assert decode([3, 1, 2], 3, one) == (3.0, 3)
    assert decode([3, 1, 2], 1, one) == (6.0, 6)
    # Two at a time: 3 and 1; after a step 2 joins; all end after step 3.
    assert decode([3, 1, 2], 2, one) == (3.0, 3)
    # Seconds of a step by how many are decoded: two for a step, two for two more.
    assert decode([3, 1, 2], 2, float) == (6.0, 3)
    assert decode([], 4, one) == (0.0, 0)


def test_exact_parts_wait_for_their_longest() -> None:
    """Two samplers, questions of two responses: parts (4, 1), (1, 1) take 4 and 1 steps."""
    assert exact([4, 1, 1, 1], 2, 2, 2, 8, one) == Outcome(4.0, 1 - 2.5 / 4, 4)
    # Four parts on two samplers: 4 | 1, then 1, then 2 go to the one that is free: 4 against 4.
    assert exact([4, 1, 1, 2], 1, 2, 4, 8, one) == Outcome(4.0, 0.0, 4)
    assert exact([4, 1], 1, 4, 2, 8, one) == Outcome(4.0, 1 - 5 / 4 / 4, 4)


def test_continuous_batching_fills_what_becomes_free() -> None:
    # One sampler, two at a time: 4 beside 1, 1, 2.
    assert continuous([4, 1, 1, 2], 1, 1, 2, one) == Outcome(4.0, 0.0, 4)
    assert continuous([4, 1, 1, 1], 1, 2, 8, one) == Outcome(4.0, 1 - 2.5 / 4, 4)


@pytest.mark.parametrize("samplers", [8, 64, 4096])
def test_continuous_is_never_slower_than_exact_one_part_a_rank(samplers: int) -> None:
    """Ranks that each send a part of their own: 8 of them on fewer samplers are decoded one after the other."""
    tokens = lengths(4096, 800, 3000)
    shared = continuous(tokens, 8, samplers, 512, one)
    apart = exact(tokens, 8, samplers, 8 * samplers, 512, one)
    assert shared.seconds <= apart.seconds
    assert 0 <= shared.idle < 1
    assert max(tokens) <= shared.steps


def test_lengths_have_the_mean_that_was_asked_for() -> None:
    drawn = lengths(20000, 500, 10**9)
    assert abs(sum(drawn) / len(drawn) - 500) < 10
    assert max(lengths(1000, 800, 1000)) == 1000


def test_seconds_of_taking_weights() -> None:
    """14 GB over 50 GB/s: a broadcast in 0.28 s; through Ray's memory 1.4 s and a hop for each doubling."""
    assert sync_seconds(14e9, 64, 50e9, "nccl") == pytest.approx(0.28)
    assert sync_seconds(14e9, 1, 50e9, "object") == pytest.approx(1.4 + 0.28)
    assert sync_seconds(14e9, 7, 50e9, "object") == pytest.approx(1.4 + 3 * 0.28)


def test_a_step_in_turns_and_ahead_against_what_was_measured() -> None:
    """Four ranks, two samplers, phases of 1.29 and 1.50 s (docs/scale/ray.md): 2.79 s and 1.75 s were measured."""
    turns, idle = training_step(1.29, 1.50, ahead=False)
    assert (turns, idle) == (pytest.approx(2.79), pytest.approx(0.54, abs=0.005))
    ahead, idle = training_step(1.29, 1.50, ahead=True)
    assert (ahead, idle) == (1.50, pytest.approx(0.14, abs=0.005))
    assert ahead / turns == pytest.approx(0.54, abs=0.005)
    assert ahead < 1.75 < turns  # the two shared two cores: between devices of their own and saturated ones
