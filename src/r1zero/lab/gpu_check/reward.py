"""Parts of the trials: a reward that random weights earn at times, and an engine that fails once."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from r1zero.train.context import RunContext


def even_length(response: str, **_: Any) -> float:
    """1 where the response has an even number of characters: right for about half of all responses."""
    return float(len(response) % 2 == 0)


class FailOnce(pl.Callback):
    """Makes the engine's second generation fail."""

    def __init__(self, context: RunContext) -> None:
        self.context, self.failed = context, False
        context.before_sampling.append(lambda module, batch: self._arm(batch.step))

    def _arm(self, step: int) -> None:
        if step != 1 or self.failed:
            return
        self.failed, engine = True, self.context.engine.now

        def fails(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("made to fail by gpu_check")

        engine.generate = fails  # type: ignore[method-assign]
