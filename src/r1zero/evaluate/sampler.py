"""Where responses come from: an engine in this process, or a server (``served.py``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from r1zero.batch import Prompt
from r1zero.rollout.engine import Engine, Sampling
from r1zero.rollout.text import check_sampled


@dataclass(frozen=True)
class Response:
    """One response; ``tokens`` counts what was sampled, stop tokens included."""

    text: str
    tokens: int
    finish_reason: str

    @property
    def truncated(self) -> bool:
        """Whether the token limit cut it."""
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Failure:
    """A response that is missing, and why."""

    reason: str


Key = tuple[int, int]
"""Question (its place among those asked) and sample."""


class Sampler(Protocol):
    """Draws the responses of one chunk of questions."""

    def sample(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, wanted: set[Key]
    ) -> dict[Key, Response | Failure]:
        """Draw at least the responses that are wanted; equal arguments draw equal responses."""
        ...

    def close(self) -> None:
        """Free what is held; safe to call twice."""
        ...


class EngineSampler:
    """Draws with a rollout engine, which is started when the first response is wanted.

    All responses of a chunk are drawn together, however few are missing: what one request draws depends on
    those beside it. Their log-probabilities are asked for to see that they were drawn from numbers.
    """

    def __init__(self, start: Callable[[], Engine]) -> None:
        self._start = start
        self._engine: Engine | None = None

    def sample(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, wanted: set[Key]
    ) -> dict[Key, Response | Failure]:
        """See :class:`Sampler`."""
        if self._engine is None:
            self._engine = self._start()
        groups = self._engine.generate([prompt.ids for prompt in prompts], replace(sampling, logprobs=True), seed)
        check_sampled(groups)
        return {
            (question, sample): Response(c.text, len(c.ids), c.finish_reason)
            for question, group in enumerate(groups)
            for sample, c in enumerate(group)
        }

    def close(self) -> None:
        """Stop the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
