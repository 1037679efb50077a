"""Which layouts fit a card, and with which settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from r1zero.lab.plan.cost import Learner, Work, cache_bytes
from r1zero.lab.plan.hardware import GPU, Shape
from r1zero.lab.plan.memory import (
    CONTEXT,
    ENGINE_ASLEEP,
    FRAGMENTATION,
    at_rest,
    engine_memory,
    learner_memory,
    phases,
)

LARGEST_SHARE = 0.9
"""Of the card, that an engine is given."""


@dataclass(frozen=True)
class Fit:
    """A layout on a card.

    Attributes:
        learner: the layout.
        work: with the micro-batch size that fits, or the smallest one where none does, and with as many
            sequences at a time as the engine's cache holds.
        parts: bytes by part, learner and engine.
        phases: bytes in every phase of a rollout step, the engine in it with what it needs.
        usable: bytes of the card.
        engine_share: for ``rollout.gpu_memory``; 0 where the layout does not fit.
    """

    learner: Learner
    work: Work
    parts: dict[str, float]
    phases: dict[str, float]
    usable: float
    engine_share: float

    @property
    def fits(self) -> bool:
        """Whether every phase does."""
        return self.engine_share > 0

    @property
    def learning(self) -> float:
        """Bytes at the learner's peak."""
        return self.phases["forward and backward"]


def fit(shape: Shape, gpu: GPU, learner: Learner, work: Work, sleep: bool = True) -> Fit:
    """Try the micro-batch size of the config, then halves of it, down to one longest response with its prompt."""
    usable = gpu.memory * (1 - FRAGMENTATION) - CONTEXT
    engine = engine_memory(shape, work, learner.devices)
    least = engine["engine weights"] + engine["engine workspace"] + least_cache(shape, work)
    tokens = max(work.micro_tokens, work.least_tokens)
    while True:
        tried = replace(work, micro_tokens=tokens)
        parts = learner_memory(shape, learner, tried)
        peak = max(phases(shape, learner, tried, {}, sleep=False).values())  # states that come back count, too
        room = usable - (at_rest(parts, learner) if sleep else peak)
        share = math.floor(100 * min(room / gpu.memory, LARGEST_SHARE)) / 100
        budget = ENGINE_ASLEEP if sleep else max(share, 0.0) * gpu.memory
        good = peak + budget <= usable and share * gpu.memory >= least
        if good or tokens // 2 < work.least_tokens:
            if good:
                each = cache_bytes(shape, work.engine_wide)
                cache = share * gpu.memory - engine["engine weights"] - engine["engine workspace"]
                tried = replace(tried, sequences=min(work.sequences, int(cache / (work.context * each))))
                engine = engine_memory(shape, tried, learner.devices)
            found = phases(shape, learner, tried, engine, sleep)
            return Fit(learner, tried, parts | engine, found, usable, share if good else 0.0)
        tokens //= 2


def least_cache(shape: Shape, work: Work) -> float:
    """Bytes of cache for sixteen sequences at their longest: with less, an engine works but crawls."""
    return 16 * (work.prompt + work.longest) * cache_bytes(shape, work.engine_wide)
