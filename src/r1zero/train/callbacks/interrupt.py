"""InterruptCallback: Ctrl-C and the signals of queues end a run between two rollout steps, with a checkpoint."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.algo.stats import reduce_over_ranks
from r1zero.errors import Stopped
from r1zero.launch import signals
from r1zero.launch.console import console
from r1zero.train.context import RunContext

SAME_REQUEST_SECONDS = 5.0


class InterruptCallback(pl.Callback):
    """The first signal lets the rollout step under way finish, so that the checkpoint is one to resume from exactly.

    A second one stops at once; the checkpoint written last stays. So does the first while the engine has not
    started: there is no step to finish yet. Lightning calls callbacks that write checkpoints after all others.
    """

    unit = "rollout step"

    def __init__(self, context: RunContext) -> None:
        self.context: Any = context
        self._received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals."""
        self._before = signals.take(self._handle)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the trainer to stop; ranks agree, since a signal may have reached only one of them."""
        received = torch.tensor([float(self._received)])
        self.context.interrupted = int(reduce_over_ranks(received, "max", pl_module.device).item())
        if self.context.interrupted:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            signals.leave_terminal()
        if not self._in_step():
            raise Stopped(number)
        if self._received:
            # torchrun hands on the signal that the terminal has already sent to every rank.
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._since < SAME_REQUEST_SECONDS:
                return
            raise Stopped(number)
        self._since = time.monotonic()
        self._received = number
        if self.context.is_main:
            name = signal.Signals(number).name
            console.print(f"\n{name}: this {self.unit} is finished and saved, then the run ends; once more to stop now")

    def _in_step(self) -> bool:
        """Whether there is a step to finish."""
        return self.context.engine_started

    def _restore(self) -> None:
        signals.give_back(self._before)
        self._before = {}
