"""MetricsCallback: one row per rollout step, to metrics.csv and to every logger."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.batch import PromptBatch
from r1zero.launch.files import whole
from r1zero.launch.run_folder import disk_full, one_line
from r1zero.learn.module import PolicyGradientModule
from r1zero.train.context import RunContext

log = logging.getLogger("r1zero")


class MetricsFile:
    """A CSV table with one row per rollout step; each row is on disk before the next step begins.

    A resumed run drops the rows of the steps that it will take again. New columns may appear at any row.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self.path = path
        self.columns: list[str] = ["step"]
        rows = [row for row in self._read() if int(float(row["step"])) < first_step]
        if rows:
            self.columns = list(rows[0])
        self._rewrite(rows)

    def append(self, row: Mapping[str, float | str]) -> None:
        """Add a row and flush it. A figure that there is none of (NaN) is an empty cell."""
        row = {name: "" if value != value else value for name, value in row.items()}
        new = [name for name in row if name not in self.columns]
        if new:
            rows = self._read()
            self.columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _read(self) -> list[dict[str, Any]]:
        """The rows on disk; the last one is left out where a full disk or a kill cut it short."""
        if not self.path.is_file():
            return []
        whole = self.path.read_text().rpartition("\n")[0]
        return list(csv.DictReader(whole.splitlines()))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """An interrupted write leaves the old table."""
        with whole(self.path) as aside, aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)


class MetricsCallback(pl.Callback):
    """Gathers the figures of rollout, learner and evaluation into the row of a rollout step.

    ``updates.csv`` has a row for each of its optimizer steps.

    The row's ``step`` counts the rollout steps that made the policy which sampled: row 0 and the
    evaluation beside it describe the base model. The row is written when the step has ended; a callback with
    figures of its own puts them into ``batch.rollout.metrics`` at the batch's start.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.file: MetricsFile | None = None
        self.updates: MetricsFile | None = None
        self.totals = {"time": 0.0, "tokens": 0.0, "sync_diff": 0.0, "sync_steps": 0.0}
        self._started = self._starts = 0.0
        self._ended = False
        context.after_evaluation.append(self._evaluated)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the table; cut off what a resumed run will write again."""
        assert isinstance(pl_module, PolicyGradientModule)
        if self.context.is_main:
            self.file = MetricsFile(self.context.run_dir / "metrics.csv", pl_module.rollout_step)
            self.updates = MetricsFile(self.context.run_dir / "updates.csv", pl_module.rollout_step)
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the row of the step that has just ended."""
        assert isinstance(batch, PromptBatch)
        assert isinstance(pl_module, PolicyGradientModule)
        assert batch.rollout is not None
        now = time.perf_counter()
        row = self.context.pending | batch.rollout.metrics | pl_module.step_metrics
        starts = self.context.engine.start_seconds
        if starts > self._starts:
            row["time/engine_start"], self._starts = starts - self._starts, starts
        row["time/step"] = now - self._started - row.get("time/eval", 0.0) - row.get("time/engine_start", 0.0)
        row["progress/rollout_step"] = batch.step
        row["progress/optimizer_step"] = pl_module.policy_version
        row["progress/tokens"] = pl_module.tokens_seen
        row["progress/epoch"] = batch.epoch
        self._started = now
        self.totals["time"] += row["time/step"]
        difference = row.get("sync/logprob_diff_mean", float("nan"))
        if difference == difference:
            self.totals["sync_diff"] += difference
            self.totals["sync_steps"] += 1
        self._emit(trainer, row, batch.step)
        if self.updates is not None:
            for number, update in enumerate(batch.rollout.updates):
                row = {"loss/policy": update.loss, "policy/grad_norm": update.grad_norm, "optim/lr": update.lr}
                self.updates.append({"step": batch.step, "update": number, **row})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last evaluation, which belongs to no rollout, or wait for it."""
        assert isinstance(pl_module, PolicyGradientModule)
        self._ended = True
        if self.context.pending:
            self._emit(trainer, dict(self.context.pending), pl_module.rollout_step)

    def _evaluated(self, module: PolicyGradientModule, result: dict[str, Any]) -> None:
        """An evaluation after the last step has a row to itself."""
        if self._ended:
            self._emit(module.trainer, dict(self.context.pending), module.rollout_step)

    def _emit(self, trainer: pl.Trainer, row: dict[str, float], step: int) -> None:
        self.context.pending.clear()
        row = {"progress/rollout_step": float(step)} | row
        if self.file is not None:
            self.file.append({"step": step, **row})
        known = {name: float(value) for name, value in row.items() if value == value}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in known.items()})
        for logger in trainer.loggers:
            tell(trainer, logger, "log_metrics", dict(known), step=step)

    def state_dict(self) -> dict[str, Any]:
        """Totals survive a resume."""
        return dict(self.totals)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the totals back."""
        self.totals.update(state_dict)


def tell(trainer: pl.Trainer, logger: Any, method: str, *what: Any, **more: Any) -> None:
    """Call a logger; one that fails is left out from then on, with a warning: metrics.csv has every figure."""
    try:
        getattr(logger, method)(*what, **more)
    except Exception as error:
        if disk_full(error):
            raise
        trainer.loggers = [other for other in trainer.loggers if other is not logger]
        log.warning("%s failed (%s): training continues without it", type(logger).__name__, one_line(error))
