"""Question sampling: each rule by hand; the loader's passes, ranks and resume (traps 32-35)."""

from __future__ import annotations

import json
import random

import pytest

from r1zero.batch import Prompt, Question
from r1zero.data.loader import PromptLoader
from r1zero.data.samplers import History, SampledLoader, curriculum, drop_solved_and_hopeless, uniform

RNG = random.Random(0)


def history(rates: dict[int, float], step: int = 0) -> History:
    found = History()
    found.rates, found.asked, found.step = dict(rates), dict.fromkeys(rates, 0), step
    return found


def prompts(count: int) -> list[Prompt]:
    return [Prompt(Question(f"q{i}", ("1",)), f"q{i}", [i]) for i in range(count)]


def loader(count: int = 12, size: int = 4, rule=uniform, steps: int = 50, rank: int = 0, world: int = 1, **params):
    return SampledLoader(prompts(count), size, steps, 0, rank, world, rule=rule, params=params)


def ids(batch) -> list[int]:
    return [p.ids[0] for p in batch.prompts]


def test_drop_solved_and_hopeless_refills_from_those_that_follow() -> None:
    rates = {0: 0.0, 1: 0.5, 2: 1.0, 4: 0.875}
    assert drop_solved_and_hopeless(range(6), history(rates), 3, RNG) == [1, 3, 4]
    assert drop_solved_and_hopeless(range(6), history(rates), 3, RNG, high=0.8) == [1, 3, 5]
    assert drop_solved_and_hopeless(range(6), history(rates, step=50), 3, RNG) == [0, 1, 2]  # they come back


def test_curriculum_prefers_rates_near_the_target() -> None:
    rates = {0: 0.0, 1: 0.5, 2: 1.0, 3: 0.25, 4: 0.625}
    assert curriculum(range(5), history(rates), 3, RNG) == [1, 4, 3]
    assert curriculum(range(5), history(rates), 3, RNG, target=0.2) == [3, 0, 1]
    assert curriculum(range(9), history(rates), 2, RNG, pool=2) == [1, 3]  # looks only 4 ahead


def test_uniform_rule_asks_what_the_plain_loader_asks() -> None:
    plain = PromptLoader(prompts(12), 4, 9, 0)
    assert [ids(b) for b in loader(steps=9)] == [ids(b) for b in plain]


def test_no_question_twice_in_a_pass_or_a_step_and_every_step_is_full() -> None:
    asked: list[int] = []
    for batch in loader(count=10, size=4, steps=5):
        assert len(set(ids(batch))) == 4
        asked += ids(batch)
    assert sorted(asked[:10]) == list(range(10))


def test_solved_questions_are_dropped_and_a_set_with_nothing_left_still_fills_steps() -> None:
    made = loader(count=12, size=4, rule=drop_solved_and_hopeless, steps=12)
    for batch in made:
        questions = ids(batch)
        assert len(set(questions)) == 4
        if batch.step in (3, 4):  # the second pass: questions 0-5 are solved
            assert min(questions) > 5
        made.record(batch.step, [1.0 if q < 6 or batch.step > 6 else 0.5 for q in questions])


def test_two_ranks_take_the_step_of_one() -> None:
    one, left, right = (loader(rule=curriculum, rank=r, world=w) for r, w in [(0, 1), (0, 2), (1, 2)])
    for step, (whole, a, b) in enumerate(zip(one, left, right, strict=True)):
        assert ids(whole) == ids(a) + ids(b)
        rates = [q / 12 for q in ids(whole)]
        for each in (one, left, right):
            each.record(step, rates)
        if step == 8:
            break


@pytest.mark.parametrize("rule", [drop_solved_and_hopeless, curriculum])
def test_a_resumed_loader_asks_what_the_uninterrupted_one_asks(rule) -> None:
    def go_on(made: SampledLoader, steps: int) -> list[list[int]]:
        asked = []
        for batch in made:
            asked.append(ids(batch))
            made.record(batch.step, [(q * 7 % 5) / 4 for q in ids(batch)])
            if len(asked) == steps:
                break
        return asked

    whole = go_on(loader(rule=rule), 12)
    first = loader(rule=rule)
    assert go_on(first, 5) == whole[:5]
    second = loader(rule=rule)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert go_on(second, 7) == whole[5:]


def test_a_rule_that_gives_what_was_not_offered_is_refused() -> None:
    for bad in ([99], [0, 0], list(range(5))):
        with pytest.raises(ValueError, match="the sampling rule gave"):
            next(iter(loader(count=6, rule=lambda w, h, n, r, bad=bad: bad)))
