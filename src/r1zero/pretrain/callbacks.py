"""What goes on beside pretraining's steps: figures, progress, an orderly end, checkpoints.

All of it happens between optimizer steps: a micro-batch inside one is left alone.
"""

from __future__ import annotations

import csv
import logging
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import r1zero
from r1zero.callbacks.checkpoint import PATTERN, DirectCheckpointIO
from r1zero.callbacks.metrics import MetricsFile
from r1zero.console import console
from r1zero.errors import Stopped, UserError
from r1zero.outputs import disk_full, shown
from r1zero.pretrain.config import PretrainConfig
from r1zero.pretrain.module import PretrainModule
from r1zero.pretrain.speed import too_low

log = logging.getLogger("r1zero")

LINE_SECONDS = 20.0
"""Without a terminal there is no bar; then at most one line in so many seconds."""


@dataclass
class PretrainContext:
    """What the callbacks of a run share."""

    cfg: PretrainConfig
    run_dir: Path
    is_main: bool
    steps: int
    parts: int
    """Micro-batches of an optimizer step."""
    peak: float
    """Operations per second of all devices together."""
    peak_from: str = ""
    """Where the peak comes from."""
    devices: int = 1
    interrupted: int = 0
    first: float | None = None
    """Held-out loss before training."""
    before: dict[str, float] = field(default_factory=dict)
    """All held-out figures before training; empty in a resumed run, whose table has them."""
    totals: dict[str, float] = field(default_factory=lambda: {"seconds": 0.0, "tokens": 0.0, "flops": 0.0})

    def between_steps(self, batch_idx: int) -> bool:
        """Whether the micro-batch that has just ended was the last one of its optimizer step."""
        return (batch_idx + 1) % self.parts == 0


class MetricsCallback(pl.Callback):
    """One row per optimizer step and per held-out measurement, to metrics.csv and to every logger.

    A row's ``step`` counts the optimizer steps that made the weights it speaks of.
    """

    def __init__(self, context: PretrainContext) -> None:
        self.context = context
        self.file: MetricsFile | None = None
        self.measured = -1
        self._since = 0.0
        self._warned = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the table; cut off what a resumed run will write again."""
        table = self.context.run_dir / "metrics.csv"
        missed = trainer.global_step % self.context.cfg.eval_every == 0 and not _measured(table, trainer.global_step)
        if self.context.is_main:
            self.file = MetricsFile(table, trainer.global_step + 1)
        if self.context.before:
            self._write(trainer, self.context.before)
        elif missed:
            self._write(trainer, measure(trainer, pl_module))
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the row of an optimizer step."""
        if not self.context.between_steps(batch_idx):
            return
        assert isinstance(pl_module, PretrainModule)
        step = pl_module.take_step_figures()
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        totals = self.context.totals
        totals["seconds"] += seconds
        totals["tokens"] += step["tokens"]
        totals["flops"] += step["flops"]
        row = {
            "train/loss": step["loss"],
            "optim/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "optim/grad_norm": step["grad_norm"],
            "progress/tokens": totals["tokens"],
            "progress/targets": step["targets"],
            "time/step": seconds,
            "speed/tokens_per_second": step["tokens"] / seconds,
            "speed/mfu": step["flops"] / seconds / self.context.peak,
        }
        context = self.context
        if context.is_main and not self._warned:
            line = too_low(row["speed/mfu"], context.peak / context.devices, context.peak_from)
            self._warned = bool(line)
            if line:
                log.warning(line)
        trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in row.items()})
        self._write(trainer, row)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a held-out measurement; its time is no training time."""
        if trainer.state.fn == "fit" and trainer.global_step > self.measured:
            self.measured = trainer.global_step
            self._write(trainer, {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("heldout/")})
        self._since = time.perf_counter()

    def _write(self, trainer: pl.Trainer, row: dict[str, float]) -> None:
        step = trainer.global_step
        row = {"progress/optimizer_step": float(step)} | row
        if self.file is not None:
            self.file.append({"step": step, **row})
        for logger in trainer.loggers:
            logger.log_metrics(dict(row), step=step)

    def state_dict(self) -> dict[str, Any]:
        """Totals and the loss before training go on over a resume."""
        return {"first": self.context.first, "totals": dict(self.context.totals), "measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.context.first, self.measured = state_dict["first"], state_dict["measured"]
        self.context.totals.update(state_dict["totals"])


def _measured(table: Path, step: int) -> bool:
    """Whether the table holds the held-out loss of this step: the run may have ended between checkpoint and measure."""
    if not table.is_file():
        return False
    rows = csv.DictReader(table.read_text().splitlines())
    return any(row["step"] == str(step) and row.get("heldout/loss") for row in rows)


def measure(trainer: pl.Trainer, module: Any) -> dict[str, float]:
    """The held-out figures now, where Lightning has no validation due."""
    module.eval()
    module.on_validation_epoch_start()
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for number, batch in enumerate(data.heldout):
            module.validation_step(trainer.strategy.batch_to_device(batch), number)
    module.train()
    # In float32, as Lightning keeps what is logged.
    return {name: float(torch.tensor(value, dtype=torch.float32)) for name, value in module.heldout_figures().items()}


class ProgressCallback(pl.Callback):
    """A bar over optimizer steps and a line per held-out measurement."""

    def __init__(self, context: PretrainContext) -> None:
        self.context = context
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_line = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if self.context.is_main and console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]step"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("<"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "steps", total=self.context.steps, completed=trainer.global_step, figures=""
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if not self.context.is_main or not self.context.between_steps(batch_idx):
            return
        m = {k: float(v) for k, v in trainer.callback_metrics.items()}
        figures = (
            f"loss {m['train/loss']:.4f}  lr {m['optim/lr']:.1e}  {m['speed/tokens_per_second']:,.0f} tokens/s  "
            f"MFU {m['speed/mfu']:.0%}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, figures=figures)
        elif time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            console.print(f"step {trainer.global_step}/{self.context.steps}  {figures}", highlight=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say the held-out loss."""
        if not self.context.is_main or trainer.state.fn != "fit":
            return
        m = trainer.callback_metrics
        parts = [
            f"{k.split('/')[1]} {float(v):.4f}" for k, v in m.items() if k.startswith("heldout/") and k.count("/") > 1
            and k.endswith("/loss")
        ]  # fmt: skip
        console.print(
            f"step {trainer.global_step:6d} of {self.context.steps}  held-out loss {m['heldout/loss']:.4f} "
            f"(perplexity {m['heldout/perplexity']:.3f}{''.join(', ' + part for part in parts)})",
            highlight=False,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class InterruptCallback(pl.Callback):
    """The first Ctrl-C or SIGTERM ends the run after the optimizer step under way, with a checkpoint; a second at once.

    Must stand before CheckpointCallback.
    """

    def __init__(self, context: PretrainContext) -> None:
        self.context = context
        self._received = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self._received:
            raise Stopped(number)
        self._received = number
        if self.context.is_main:
            console.print("\nthis optimizer step is finished and saved, then the run ends; once more to stop now")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the trainer to stop; ranks agree, since a signal may have reached only one of them."""
        if not self.context.between_steps(batch_idx):
            return
        received: Any = float(self._received)
        if trainer.world_size > 1:
            received = trainer.strategy.reduce(torch.tensor(received, device=pl_module.device), reduce_op="max")
        if received:
            self.context.interrupted = int(received)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class CheckpointCallback(pl.callbacks.Checkpoint):
    """Saves after every ``checkpoint_every`` optimizer steps and on an interruption: whole files or none.

    A checkpoint is written aside, flushed to disk and renamed; a kill in the middle leaves the previous one.
    """

    def __init__(self, context: PretrainContext) -> None:
        self.context = context
        self.folder = context.run_dir / "checkpoints"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over the writing of files; strategies with a format of their own keep it."""
        strategy: Any = trainer.strategy
        if type(strategy._checkpoint_io) in (TorchCheckpointIO, type(None)):
            strategy.checkpoint_io = DirectCheckpointIO()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what wrote it."""
        checkpoint["r1zero_release"] = r1zero.__version__

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due, or where the run stops here."""
        every = self.context.cfg.checkpoint_every
        if not self.context.between_steps(batch_idx):
            return
        if (every and trainer.global_step % every == 0) or self.context.interrupted:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write ``step_<n>.ckpt``. Raises ``UserError`` when the disk is full."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"step_{trainer.global_step:06d}.ckpt"
        aside = target.with_suffix(".tmp")
        try:
            trainer.save_checkpoint(aside)
            if self.context.is_main:
                os.replace(aside, target)
        except Exception as error:
            if not disk_full(error):
                raise
            aside.unlink(missing_ok=True)
            raise UserError(
                f"the disk is full: checkpoint {shown(target)} could not be written; earlier ones are whole. "
                f"Free some space and go on with resume={shown(self.context.run_dir)}"
            ) from error
        trainer.strategy.barrier("checkpoint")
        if self.context.is_main:
            for old in sorted(path for path in self.folder.glob(PATTERN) if path.is_file())[: -self.context.cfg.keep]:
                old.unlink()
