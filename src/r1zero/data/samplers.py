"""Which questions are asked: rules that look at the policy's success on them so far.

A rule picks questions for a rollout step among those that this pass has not asked yet. One of your own
is a function named by its import path in ``data.sampler``:

    def my_rule(waiting, history, wanted, rng, **params) -> list of at most ``wanted`` indices from ``waiting``

``waiting`` is in the shuffled order of the pass; ``history.rate(i)`` is the share of right responses
when question i was asked last, or None; ``rng`` is a ``random.Random`` that a resumed run draws from
alike. Fewer than ``wanted``: the next pass begins, and what it still lacks is filled up in order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from r1zero.batch import Prompt, PromptBatch
from r1zero.data.loader import PromptLoader

Rule = Callable[..., list[int]]


class History:
    """The policy's success on each question when it was last asked."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}
        self.asked: dict[int, int] = {}
        self.step = 0
        """The rollout step that questions are picked for."""

    def rate(self, index: int) -> float | None:
        """Share of right responses when the question was asked last; None before the first time."""
        return self.rates.get(index)

    def last_step(self, index: int) -> int | None:
        """Rollout step in which the question was asked last; None before the first time."""
        return self.asked.get(index)


def uniform(waiting: Sequence[int], history: History, wanted: int, rng: random.Random) -> list[int]:
    """The shuffled order as it stands."""
    return list(waiting[:wanted])


def drop_solved_and_hopeless(
    waiting: Sequence[int],
    history: History,
    wanted: int,
    rng: random.Random,
    low: float = 0.0,
    high: float = 1.0,
    retry_after: int = 50,
) -> list[int]:
    """Leave out questions whose group was all wrong or all right last time, and refill from those that follow.

    Such groups have zero advantage: they cost responses and teach nothing. They come back after a
    while, since the policy changes.

    Args:
        waiting: question indices in the order of the pass.
        history: success so far.
        wanted: how many to pick.
        rng: not used.
        low: success rates up to this are hopeless.
        high: success rates from this are solved.
        retry_after: rollout steps after which a question is asked anyway.
    """
    picked = []
    for index in waiting:
        rate, asked = history.rate(index), history.last_step(index)
        if rate is None or low < rate < high or (asked is not None and history.step - asked >= retry_after):
            picked.append(index)
            if len(picked) == wanted:
                break
    return picked


def curriculum(
    waiting: Sequence[int],
    history: History,
    wanted: int,
    rng: random.Random,
    target: float = 0.5,
    pool: int = 4,
) -> list[int]:
    """Prefer questions whose success rate was nearest to ``target``, where the reward varies most.

    Args:
        waiting: question indices in the order of the pass.
        history: success so far; a question never asked counts as at the target.
        wanted: how many to pick.
        rng: not used.
        target: success rate to aim at.
        pool: looks this many times ``wanted`` ahead.
    """
    near = list(waiting[: pool * wanted])

    def distance(index: int) -> float:
        rate = history.rate(index)
        return 0.0 if rate is None else abs(rate - target)

    return sorted(near, key=distance)[:wanted]


SAMPLERS: dict[str, Rule] = {
    "uniform": uniform,
    "drop_solved_and_hopeless": drop_solved_and_hopeless,
    "curriculum": curriculum,
}


class SampledLoader(PromptLoader):
    """A PromptLoader whose questions a rule picks from the history of successes.

    Every rank keeps the same history, so all pick the same questions. What was asked in this pass and
    the history are part of the saved state: a resumed run asks what the uninterrupted one would have.
    """

    def __init__(self, *args: Any, rule: Rule, params: dict[str, Any] | None = None, **keywords: Any) -> None:
        """As :class:`PromptLoader`, and the rule with its keyword arguments."""
        super().__init__(*args, **keywords)
        self.rule, self.params = rule, params or {}
        self.history = History()
        self.pass_index = 0
        self.passed: set[int] = set()
        self.current: list[int] = []

    def batch(self, step: int) -> PromptBatch:
        """This rank's share of the questions that the rule picks for a step."""
        share = self.questions_per_step // self.world_size
        self.current = self._pick(step)
        mine: list[Prompt] = [self.prompts[i] for i in self.current[self.rank * share : (self.rank + 1) * share]]
        return PromptBatch(step, self.pass_index, mine)

    def record(self, step: int, rates: Sequence[float]) -> int:
        """Take the success rates of all questions of the step handed out last, in its order over all ranks.

        Returns:
            questions whose rate is known by now.
        """
        for index, rate in zip(self.current, rates, strict=True):
            self.history.rates[index] = float(rate)
            self.history.asked[index] = step
        return len(self.history.rates)

    def _pick(self, step: int) -> list[int]:
        size, count = self.questions_per_step, len(self.prompts)
        picked: list[int] = []
        self.history.step = step
        rng = random.Random(f"{self.seed}/sampler/{step}")
        for attempt in range(3):
            waiting = self._waiting(picked)
            found = self.rule(waiting, self.history, size - len(picked), rng, **self.params)
            self._check(found, waiting, size - len(picked))
            if attempt == 2:  # the rule wants nothing more of a whole pass: fill up in order
                found = [*found, *(i for i in waiting if i not in set(found))]
                found = found[: size - len(picked)]
            picked += found
            self.passed.update(found)
            if len(picked) == size:
                return picked
            self.pass_index, self.passed = self.pass_index + 1, set()
        while len(picked) < size:  # fewer questions than P: some are asked twice
            picked += list(self.order(count, self.seed, self.pass_index))[: size - len(picked)]
        return picked

    def _waiting(self, picked: Sequence[int]) -> list[int]:
        taken = self.passed | set(picked)
        return [i for i in self.order(len(self.prompts), self.seed, self.pass_index) if i not in taken]

    @staticmethod
    def _check(found: Sequence[int], waiting: Sequence[int], wanted: int) -> None:
        if len(found) > wanted or len(set(found)) < len(found) or not set(found) <= set(waiting):
            raise ValueError(
                f"the sampling rule gave {len(found)} questions, wanted are at most {wanted} different ones of those "
                "that wait"
            )

    def state_dict(self) -> dict[str, Any]:
        """Position, history and what this pass has asked."""
        history = {str(i): [rate, self.history.asked[i]] for i, rate in self.history.rates.items()}
        return {
            **super().state_dict(),
            "sampler": {"pass": self.pass_index, "passed": sorted(self.passed), "history": history},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position; a run that sampled uniformly until now starts with an empty history."""
        super().load_state_dict(state)
        saved = state.get("sampler", {"pass": 0, "passed": [], "history": {}})
        self.pass_index, self.passed = saved["pass"], set(saved["passed"])
        for key, (rate, step) in saved["history"].items():
            self.history.rates[int(key)], self.history.asked[int(key)] = rate, step
