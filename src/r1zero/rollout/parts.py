"""A rank's prompts in parts, each sampled by a seed of its own: what several servers share out among them.

An engine draws for all prompts of a call from one stream of random numbers, so what a response is depends on
the prompts beside it. The parts are therefore settled by the config, before anybody knows which server takes
which: a part's responses are the same on every server, and in this process.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1zero.batch import Completion
from r1zero.launch.seeding import derive_seed
from r1zero.rollout.engine import Engine, EngineAround, Sampling


@dataclass(frozen=True)
class Part:
    """Prompts ``start`` to ``stop`` of a call, and the seed of their draws."""

    start: int
    stop: int
    seed: int


def split(count: int, parts: int, seed: int) -> list[Part]:
    """Cut ``count`` prompts into at most ``parts`` runs of nearly equal length; one part keeps the call's seed."""
    parts = max(1, min(parts, count))
    bounds = [count * i // parts for i in range(parts + 1)]
    seeds = [seed] if parts == 1 else [derive_seed(seed, "part", i) for i in range(parts)]
    return [Part(bounds[i], bounds[i + 1], seeds[i]) for i in range(parts)]


class InParts(EngineAround):
    """An engine of this process that samples in parts, one after the other, as several servers do side by side."""

    def __init__(self, engine: Engine, parts: int) -> None:
        super().__init__(engine)
        self.parts = parts

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """See :meth:`r1zero.rollout.engine.Engine.generate`."""
        if not prompts:
            return self.engine.generate(prompts, sampling, seed)
        return [
            group
            for part in split(len(prompts), self.parts, seed)
            for group in self.engine.generate(prompts[part.start : part.stop], sampling, part.seed)
        ]
