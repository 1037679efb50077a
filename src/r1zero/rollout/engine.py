"""The protocol that every rollout engine keeps, and the sampling settings it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from r1zero.batch import Completion


@dataclass(frozen=True)
class Sampling:
    """Every sampling field, set by us: an engine adds none from a model's generation config (trap 21).

    ``stop`` are the template's stop strings, ``keep_stop`` leaves the one that matched in the text;
    ``stop_ids`` are all EOS ids of the model and the template. ``logprobs`` asks for the sampler's
    log-probability of each sampled token, after temperature (trap 19), ``whole`` for those of all tokens.
    """

    n: int = 1
    max_tokens: int = 3000
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    stop_ids: tuple[int, ...] = ()
    logprobs: bool = True
    whole: bool = False


class Engine(Protocol):
    """Generates responses with a counted version of the policy's weights.

    ``version`` is None until weights were loaded through :meth:`load_weights`; then the number given
    there. A caller compares it with the learner's and syncs when it is behind (semantics 15).
    """

    version: int | None

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """Sample ``sampling.n`` responses for each prompt (token ids); the order of prompts is kept.

        Two calls with equal arguments and equal weights draw the same responses. Leaves the process's
        RNG states as they were (trap 31).
        """
        ...

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take the learner's weights, one named tensor at a time, and serve them as ``version``.

        Names are those of the Hugging Face module; tensors are cast to the engine's dtype. Caches keyed
        by tokens are dropped afterwards. Raises ``SyncError`` when the names loaded are not those
        expected (traps 37, 40, 42).
        """
        ...

    def sleep(self) -> None:
        """Give the accelerator's memory back while the learner works (no effect on a CPU)."""
        ...

    def wake(self) -> None:
        """Undo :meth:`sleep`; weights must be loaded again before the next generate."""
        ...

    def close(self) -> None:
        """Free everything; safe to call twice."""
        ...


class EngineAround:
    """An engine around an engine: all of it is the inner one's but what a subclass changes, mostly ``generate``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def version(self) -> int | None:
        """See :class:`Engine`."""
        return self.engine.version

    @version.setter
    def version(self, value: int | None) -> None:
        self.engine.version = value

    @property
    def on_step(self) -> Callable[[], None] | None:
        """Called at every decoding step of the inner engine, where that has it."""
        return self.engine.on_step  # type: ignore[attr-defined]

    @on_step.setter
    def on_step(self, value: Callable[[], None] | None) -> None:
        self.engine.on_step = value  # type: ignore[attr-defined]

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """See :meth:`Engine.generate`."""
        return self.engine.generate(prompts, sampling, seed)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """See :meth:`Engine.load_weights`."""
        self.engine.load_weights(weights, version)

    def sleep(self) -> None:
        """See :meth:`Engine.sleep`."""
        self.engine.sleep()

    def wake(self) -> None:
        """See :meth:`Engine.wake`."""
        self.engine.wake()

    def close(self) -> None:
        """See :meth:`Engine.close`."""
        self.engine.close()
