"""The prompt loader: order, shares, resume. Traps 14, 32-35, 53; semantics 14."""

from __future__ import annotations

import copy
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1zero.batch import Prompt, Question
from r1zero.data.loader import PromptLoader, shuffled
from r1zero.errors import UserError


def prompts(count: int, tag: str = "q") -> list[Prompt]:
    return [Prompt(Question(f"{tag}{i}", (str(i),), "made", i), f"Q: {tag}{i}", [i]) for i in range(count)]


def rows(batch) -> list[int]:
    return [prompt.question.row for prompt in batch.prompts]


def flat(parts) -> list[int]:
    return list(chain.from_iterable(parts))


def run(loader: PromptLoader, steps: int | None = None) -> list[list[int]]:
    """Rows of the next batches."""
    out = []
    for batch in loader:
        out.append(rows(batch))
        if steps is not None and len(out) == steps:
            break
    return out


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    size=st.integers(1, 12),
    steps=st.integers(1, 25),
    world=st.sampled_from([1, 2, 3, 4]),
    seed=st.integers(0, 5),
)
def test_shares_are_disjoint_and_together_the_stream_of_passes(count, size, steps, world, seed):
    """Traps 32, 33: whatever the number of ranks, the step is the same, shared out in order without overlap."""
    size *= world
    whole = run(PromptLoader(prompts(count), size, steps, seed))
    shares = [run(PromptLoader(prompts(count), size, steps, seed, rank, world)) for rank in range(world)]
    assert [flat(parts) for parts in zip(*shares, strict=True)] == whole
    assert len(whole) == steps
    assert all(len(step) == size for step in whole)
    stream = flat(whole)
    for begin in range(0, len(stream) - count + 1, count):  # each full pass asks every question once
        assert sorted(stream[begin : begin + count]) == list(range(count))
    if count >= size:
        assert all(len(set(step)) == size for step in whole)


def test_a_step_over_the_end_of_a_pass_is_full_and_repeats_no_question():
    """5 questions, 3 a step: step 1 takes the last two of pass 0 and the first of pass 1 that is neither."""
    loader = PromptLoader(prompts(5), 3, 4, seed=0, order=lambda count, *_: list(range(count)))
    assert [loader.indices(step) for step in range(4)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]
    backwards = PromptLoader(
        prompts(5), 3, 4, seed=0, order=lambda n, seed, p: range(n) if p % 2 == 0 else range(n)[::-1]
    )
    # pass 1 is 4 3 2 1 0, but 3 and 4 were just asked: 2 comes first, then 4 3 1 0 in their order
    assert [backwards.indices(step) for step in range(3)] == [[0, 1, 2], [3, 4, 2], [4, 3, 1]]


def test_a_set_smaller_than_a_step_is_asked_in_whole_passes():
    loader = PromptLoader(prompts(3), 7, 3, seed=1)
    stream = flat(loader.indices(step) for step in range(3))
    assert [sorted(stream[i : i + 3]) for i in range(0, 21, 3)] == [[0, 1, 2]] * 7


def test_order_follows_from_the_seed_and_changes_with_each_pass():
    """Semantics 14; one seed gives one order, another seed another, and every pass is shuffled anew."""
    first, again = (run(PromptLoader(prompts(64), 8, 16, seed=3)) for _ in range(2))
    other = run(PromptLoader(prompts(64), 8, 16, seed=4))
    assert first == again
    assert first != other
    assert flat(first[:8]) != flat(first[8:])
    assert sorted(flat(first[:8])) == sorted(flat(first[8:]))
    assert shuffled(5, 0, 0) != shuffled(5, 0, 1) or shuffled(6, 0, 0) != shuffled(6, 0, 1)


def test_the_order_is_the_same_on_every_machine():
    """A golden: a change of this order changes every published run with a seed."""
    assert shuffled(10, 0, 0) == [1, 0, 2, 4, 9, 3, 8, 6, 7, 5]
    assert shuffled(10, 1, 2) == [9, 0, 2, 5, 8, 7, 3, 4, 6, 1]


@pytest.mark.parametrize("cut", [0, 1, 3, 7, 10])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (1, 4), (4, 2), (2, 1)])
def test_resume_equals_an_unbroken_run_for_any_number_of_ranks(cut, before, after):
    """Trap 35: position k, then the rest, is the unbroken run, also when the number of ranks changes."""
    whole = run(PromptLoader(prompts(9), 4, 10, seed=5))
    first = [PromptLoader(prompts(9), 4, 10, 5, rank, before) for rank in range(before)]
    head = [flat(parts) for parts in zip(*(run(loader, cut) if cut else [] for loader in first), strict=True)]
    state = copy.deepcopy(first[0].state_dict())
    assert all(loader.state_dict() == state for loader in first)
    assert state["step"] == cut
    second = [PromptLoader(prompts(9), 4, 10, 5, rank, after) for rank in range(after)]
    for loader in second:
        loader.load_state_dict(state)
        assert len(loader) == 10
    tail = [flat(parts) for parts in zip(*(run(loader) for loader in second), strict=True)]
    assert head + tail == whole


def test_batches_carry_step_and_pass():
    batches = list(PromptLoader(prompts(5), 2, 6, seed=0))
    assert [batch.step for batch in batches] == list(range(6))
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 2]  # of the step's first question
    assert all(batch.rollout is None for batch in batches)


def test_a_longer_run_may_go_on_from_a_shorter_one():
    short, long = PromptLoader(prompts(9), 4, 5, seed=0), PromptLoader(prompts(9), 4, 8, seed=0)
    run(short)
    long.load_state_dict(short.state_dict())
    assert run(long) == run(PromptLoader(prompts(9), 4, 8, seed=0))[5:]
    assert run(long) == []  # exhausted stays exhausted


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(prompts=prompts(9, "other")), "9 then, 9 now, 9 of them differ, the first is question 1 "),
        (dict(prompts=prompts(8)), "other prompts: 9 then, 8 now, the first 8 are the same"),
        (dict(questions_per_step=3), "rollout.questions=4, this one has 3"),
        (dict(seed=6), "seed=5, this one has 6"),
    ],
)
def test_a_position_in_something_else_is_refused(changed, message):
    """Trap 35: another set, P or seed would silently ask other questions."""
    fixed = dict(prompts=prompts(9), questions_per_step=4, steps=10, seed=5)
    state = PromptLoader(**fixed).state_dict()
    other = PromptLoader(**{**fixed, **changed})
    with pytest.raises(UserError, match=message):
        other.load_state_dict(state)


def test_another_gold_answer_is_another_set():
    made = prompts(3)
    state = PromptLoader(made, 1, 3, 0).state_dict()
    changed = [*made[:2], Prompt(Question("q2", ("7",), "made", 2), made[2].text, made[2].ids)]
    with pytest.raises(UserError, match="other prompts"):
        PromptLoader(changed, 1, 3, 0).load_state_dict(state)


def test_questions_that_the_ranks_cant_share_are_refused():
    with pytest.raises(UserError, match=r"rollout\.questions=6 must be a multiple of the 4 processes"):
        PromptLoader(prompts(9), 6, 1, 0, 0, 4)
    with pytest.raises(UserError, match="no prompt"):
        PromptLoader([], 1, 1, 0)


def test_equal_prompts_stay_two_places_in_a_step():
    """Trap 14: a question that a set holds twice keeps two places; nothing groups by text."""
    twice = [Prompt(Question("same", ("1",), "made", i), "same", [7]) for i in range(4)]
    batch = next(iter(PromptLoader(twice, 4, 1, 0)))
    assert sorted(rows(batch)) == [0, 1, 2, 3]
