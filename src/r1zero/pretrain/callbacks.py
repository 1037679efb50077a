"""What happens beside pretraining's steps: figures, progress, an orderly end, checkpoints.

All of it happens between optimizer steps: a micro-batch inside one is left alone.
"""

from __future__ import annotations

import csv
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.launch.console import console
from r1zero.pretrain.config import PretrainConfig
from r1zero.pretrain.module import PretrainModule
from r1zero.pretrain.speed import too_low
from r1zero.train.callbacks import interrupt
from r1zero.train.callbacks.checkpoint import CheckpointWriter
from r1zero.train.callbacks.metrics import MetricsFile, tell
from r1zero.train.callbacks.progress import BarCallback, StepBar

log = logging.getLogger("r1zero")


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
        """Write a held-out measurement; its time does not count as training time."""
        # After training it is measured once more, whether due or not.
        last = trainer.global_step == self.context.steps
        if (trainer.state.fn == "fit" or last) and trainer.global_step > self.measured:
            self.measured = trainer.global_step
            self._write(trainer, {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("heldout/")})
        self._since = time.perf_counter()

    def _write(self, trainer: pl.Trainer, row: dict[str, float]) -> None:
        step = trainer.global_step
        row = {"progress/optimizer_step": float(step)} | row
        if self.file is not None:
            self.file.append({"step": step, **row})
        for logger in trainer.loggers:
            tell(trainer, logger, "log_metrics", dict(row), step=step)

    def state_dict(self) -> dict[str, Any]:
        """Totals and the loss before training survive a resume."""
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


class ProgressCallback(BarCallback):
    """A bar over optimizer steps and a line per held-out measurement."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if self.context.is_main:
            self._bar = StepBar("step", self.context.steps, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._bar is None or not self.context.between_steps(batch_idx):
            return
        m = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self._bar.show(
            trainer.global_step,
            f"loss {m['train/loss']:.4f}  lr {m['optim/lr']:.1e}  {m['speed/tokens_per_second']:,.0f} tokens/s  "
            f"MFU {m['speed/mfu']:.0%}",
        )

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


class InterruptCallback(interrupt.InterruptCallback):
    """The first Ctrl-C or SIGTERM ends the run after the optimizer step under way, with a checkpoint; a second now."""

    unit = "optimizer step"

    def __init__(self, context: PretrainContext) -> None:
        super().__init__(context)  # type: ignore[arg-type]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the trainer to stop, after the last micro-batch of an optimizer step."""
        if self.context.between_steps(batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _in_step(self) -> bool:
        return True


class CheckpointCallback(CheckpointWriter):
    """Saves after every ``checkpoint_every`` optimizer steps and on an interruption: whole files or none."""

    def __init__(self, context: PretrainContext) -> None:
        super().__init__(context, context.cfg.keep)

    def decays(self, group: dict[str, Any]) -> bool:
        """Matrices alone, as in :meth:`PretrainModule.configure_optimizers`."""
        return all(p.dim() >= 2 for p in group["params"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due, or where the run stops here."""
        every = self.context.cfg.checkpoint_every
        if not self.context.between_steps(batch_idx):
            return
        if (every and trainer.global_step % every == 0) or self.context.interrupted:
            self.save(trainer, trainer.global_step)
