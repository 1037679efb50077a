"""CheckpointCallback: whole checkpoints or none, at rollout-step boundaries, and the exported policy."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.batch import PromptBatch
from r1zero.context import RunContext
from r1zero.errors import UserError
from r1zero.module import PolicyGradientModule

log = logging.getLogger("r1zero")

PATTERN = "step_*.ckpt"


class CheckpointCallback(pl.callbacks.Checkpoint):
    """Saves after every ``checkpoint.every`` rollout steps, at the end and when a run is asked to stop.

    A checkpoint is written aside, flushed to disk and renamed, so a kill or a full disk in the middle
    leaves the previous one whole. Lightning's ModelCheckpoint counts optimizer steps, K a batch (trap 51).
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.folder = context.run_dir / "checkpoints"
        self.saved_step = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where the finished step is due, or where the run stops here."""
        assert isinstance(batch, PromptBatch)
        done = batch.step + 1
        every = self.context.cfg.checkpoint.every
        if (every and done % every == 0) or done == self.context.cfg.steps or trainer.should_stop:
            self.save(trainer, done)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export the policy as a Hugging Face folder."""
        assert isinstance(pl_module, PolicyGradientModule)
        export_policy(pl_module, self.context, self.context.run_dir / "policy")

    def save(self, trainer: pl.Trainer, step: int) -> None:
        """Write ``step_<n>.ckpt``; n counts the rollout steps that made the weights.

        Raises:
            UserError: the disk is full; what was saved before is whole.
        """
        if step == self.saved_step:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"step_{step:06d}.ckpt"
        aside = target.with_suffix(".tmp")
        try:
            trainer.save_checkpoint(aside)
            if self.context.is_main:
                _flush(aside)
                os.replace(aside, target)
        except OSError as error:
            _remove(aside)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"the disk is full: checkpoint {target} could not be written; earlier checkpoints are whole. "
                f"Free some space and go on with resume={self.context.run_dir}"
            ) from error
        self.saved_step = step
        trainer.strategy.barrier("checkpoint")
        if self.context.is_main:
            for old in sorted(self.folder.glob(PATTERN))[: -max(self.context.cfg.checkpoint.keep, 1)]:
                _remove(old)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run folder that can be read; half-written ones are named and skipped.

    Loaded with ``weights_only``: nothing in a checkpoint is ever executed.
    """
    for path in sorted((run_dir / "checkpoints").glob(PATTERN), reverse=True):
        if path.is_dir():
            return path
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            log.warning("checkpoint %s can't be read (%s): skipped", path, type(error).__name__)
            continue
        return path
    return None


def export_policy(module: PolicyGradientModule, context: RunContext, folder: Path) -> None:
    """Write the policy as a Hugging Face folder in the model's number format, whole or not at all."""
    dtype = torch.float32 if context.cfg.model.dtype == "float32" else torch.bfloat16
    if context.world_size > 1 and not context.is_main:
        for _ in module.policy.named_weights():  # sharded weights are gathered by all ranks together
            pass
        return
    aside = folder.with_name(folder.name + ".tmp")
    _remove(aside)
    try:
        module.policy.save(aside, context.tokenizer, dtype)
    except OSError as error:
        _remove(aside)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"the disk is full: {folder} could not be written; the checkpoints are whole") from error
    _remove(folder)
    os.replace(aside, folder)


def _flush(path: Path) -> None:
    """Have the file on disk before it gets its name."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
