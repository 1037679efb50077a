"""A callback that notes memory in every phase of a rollout step; for trial runs. ``memory.jsonl`` in the run folder."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytorch_lightning as pl
import torch

from r1zero.train.context import RunContext


class MemoryProbe(pl.Callback):
    """One line a rollout step: bytes in use before sampling, with the engine awake, asleep, and the learner's peak.

    Of the whole card where there is one, engine and other processes included; else of this process. ``learner`` and
    ``learner_peak`` are what torch's own allocator has given out, and are there on a card alone.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.row: dict[str, Any] = {}
        self._wrapped: Any = None
        context.before_sampling.append(lambda module, batch: self._begin(batch.step))

    def _begin(self, step: int) -> None:
        self.row = {"step": step, "rest": used(), **own("learner")}
        engine = self.context.engine.now if self.context.engine.started else None
        if engine is not None and engine is not self._wrapped:
            self._wrapped, sleep = engine, engine.sleep

            def noted() -> None:
                self.row["awake"] = used()
                sleep()
                self.row["asleep"] = used()

            engine.sleep = noted  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The responses are there, the learner's work begins."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The step is over."""
        self.row |= {"after": used(), **own("learner_peak", peak=True)}
        if self.context.is_main:
            with (self.context.run_dir / "memory.jsonl").open("a") as file:
                file.write(json.dumps(self.row) + "\n")


def used() -> int:
    """Bytes in use on the card, by whomever; of this process where there is no card."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free
    return int(psutil.Process().memory_info().rss)


def own(name: str, peak: bool = False) -> dict[str, int]:
    """Bytes that torch's allocator has given out on the card; nothing without one."""
    if not torch.cuda.is_available():
        return {}
    return {name: torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()}
