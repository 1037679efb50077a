"""CheckpointCallback: whole checkpoints or none, at rollout-step boundaries, and the exported policy."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

import r1zero
from r1zero.batch import PromptBatch
from r1zero.errors import UserError
from r1zero.launch import compat
from r1zero.launch.files import remove, restore, sync, whole_folder, write_sums
from r1zero.launch.record import checkpoints, damage, work_in
from r1zero.launch.run_folder import disk_full, how_to_go_on, one_line, shown
from r1zero.learn.module import PolicyGradientModule
from r1zero.learn.zero import ZeroStrategy
from r1zero.train.context import RunContext
from r1zero.train.model_card import describe

log = logging.getLogger("r1zero")

FOREIGN = re.compile(r"GLOBAL ([\w.]+) ")
"""torch's word for a name that its restricted unpickler does not know."""

FORMAT = 1
"""Version of what a checkpoint holds; raised when an older one can't be resumed."""


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint straight to its path and has it on disk before it returns.

    Lightning's own serialises into memory first and goes through the folder for temporary files: twice
    the memory, and a disk that may be small.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write, flush, sync; raises ``OSError`` where the disk is full."""
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class CheckpointWriter(pl.callbacks.Checkpoint):
    """Writes checkpoints, keeps the newest ``keep``.

    A checkpoint is written aside, flushed to disk and renamed, so a kill or a full disk in the middle
    leaves the previous one whole. Lightning's ModelCheckpoint counts optimizer steps, K a batch (trap 51).

    Args:
        context: has ``run_dir`` and ``is_main``.
        keep: checkpoints that are kept, at least 1.
    """

    def __init__(self, context: Any, keep: int) -> None:
        self.context, self.keep = context, keep
        self.folder = context.run_dir / "checkpoints"
        self.saved_step = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over the writing of files; strategies with a format of their own (sharded) keep it."""
        if compat.writes_plain_files(trainer.strategy):
            trainer.strategy.checkpoint_io = DirectCheckpointIO()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what wrote it."""
        checkpoint["r1zero_release"] = r1zero.__version__

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the current settings over those that a checkpoint restores; equal ones change nothing.

        A group of parameters without weight decay (gains and biases in pretraining) stays without.
        """
        optim = self.context.cfg.optim
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                decay = optim.weight_decay if self.decays(group) else 0.0
                group.update(betas=tuple(optim.betas), eps=optim.eps, weight_decay=decay)
        for entry in trainer.lr_scheduler_configs:
            scheduler: Any = entry.scheduler
            scheduler.base_lrs = [optim.lr] * len(scheduler.base_lrs)
            for group, factor in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
                group["initial_lr"], group["lr"] = optim.lr, optim.lr * factor(scheduler.last_epoch)

    def decays(self, group: dict[str, Any]) -> bool:
        """Whether weights of this group of the optimizer decay."""
        return True

    def save(self, trainer: pl.Trainer, step: int) -> None:
        """Write ``step_<n>.ckpt``; n counts the steps that made the weights.

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
                _settle(aside, target)
        except BaseException as error:
            with contextlib.suppress(OSError):
                remove(aside)
            if not disk_full(error):
                raise
            raise UserError(
                f"the disk is full: checkpoint {shown(target)} could not be written; earlier checkpoints are whole. "
                f"Free some space and {how_to_go_on(self.context.run_dir)}"
            ) from error
        self.saved_step = step
        trainer.strategy.barrier("checkpoint")
        if self.context.is_main:
            for old in checkpoints(self.context.run_dir)[max(self.keep, 1) :]:
                remove(old)


class CheckpointCallback(CheckpointWriter):
    """Saves after every ``checkpoint.every`` rollout steps, at the end and when a run is asked to stop."""

    context: RunContext

    def __init__(self, context: RunContext) -> None:
        super().__init__(context, context.cfg.checkpoint.keep)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what wrote it, and in which format."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["r1zero_format"] = FORMAT

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


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run folder that is whole; those that are not are named. None before the first step.

    Loaded with ``weights_only``: nothing in a checkpoint is ever executed.

    Raises:
        UserError: there are checkpoints, or rows of ``metrics.csv``, and nothing to resume from; or a checkpoint asks
            for a function to be called, which does not happen by accident.
    """
    reasons: list[str] = []
    for path in checkpoints(run_dir):
        if not (reason := damage(path) or ("" if path.is_dir() else _unreadable(path))):
            for line in reasons:
                log.warning("checkpoint %s: continuing from %s", line, shown(path))
            return path
        reasons.append(f"{shown(path)} can't be read ({reason})")
    anew = (
        f"nothing was changed. To start over there, remove checkpoints, metrics.csv and completions of {shown(run_dir)}"
    )
    if reasons:
        raise UserError(f"no checkpoint is left to resume from: {'; '.join(reasons)}; {anew}")
    if work := work_in(run_dir):
        raise UserError(f"{shown(run_dir)} holds {work} and no checkpoint to resume from; {anew}")
    return None


def _unreadable(path: Path) -> str:
    """Why torch can't load a checkpoint file whose bytes are as they were written."""
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        if called := FOREIGN.search(str(error)):
            raise UserError(
                f"checkpoint {shown(path)} asks for {called[1]} to be called; nothing from a checkpoint is ever "
                "executed: it was not loaded. Remove it if you know where it comes from"
            ) from error
        return one_line(error)
    return ""


def check_checkpoint(path: Path, module: PolicyGradientModule, strategy: Any = None) -> None:
    """Refuse a checkpoint that this program or this model can't go on from.

    Checkpoints of some sharded strategies are folders whose index is unpickled, which can run what is in it.
    They are left to torch and DeepSpeed, and only where the strategy is one that writes such folders.

    Raises:
        UserError: another format, weights of another model, or a folder where files are written.
    """
    if path.is_dir():
        if isinstance(strategy, ZeroStrategy) or compat.writes_folders(strategy):
            return
        raise UserError(
            f"checkpoint {shown(path)} is a folder, and this trainer writes files: reading a folder can run what is "
            "in it, so only trainer=deepspeed and trainer.strategy.save_distributed_checkpoint=true resume from one"
        )
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    written = content.get("r1zero_format")
    if written != FORMAT:
        release = content.get("r1zero_release", "unknown")
        raise UserError(
            f"checkpoint {shown(path)} has format {written} (written by r1zero {release}), "
            f"this is r1zero {r1zero.__version__}, which reads format {FORMAT}: continue with the release that "
            f"wrote it, or start a new run with model={shown(path.parents[1] / 'policy')}"
        )
    theirs = {name: tuple(tensor.shape) for name, tensor in content["state_dict"].items()}
    ours = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if theirs != ours:
        name = next(name for name in [*ours, *theirs] if theirs.get(name) != ours.get(name))
        raise UserError(
            f"checkpoint {shown(path)} holds another model: {name.removeprefix('policy.model.')} is "
            f"{_size(theirs.get(name))} there and {_size(ours.get(name))} in the model that is asked for"
        )


def discard_half_written(run_dir: Path) -> None:
    """Remove what a run that was killed in the middle of a write left behind, and say so."""
    for path in [*(run_dir / "checkpoints").glob("step_*.tmp"), *run_dir.glob("*.tmp")]:
        log.warning("%s is half-written: the run was stopped in the middle of it; removed", shown(path))
        remove(path)
    for name in ("policy", "policy_best"):
        restore(run_dir / name)


def export_policy(
    module: PolicyGradientModule, context: RunContext, folder: Path, beside: dict[str, str] | None = None
) -> None:
    """Write the policy as a Hugging Face folder in the model's number format, whole or not at all.

    Args:
        module: has the policy.
        context: the run.
        folder: where it goes.
        beside: further text files of the folder, by name.
    """
    dtype = getattr(torch, context.cfg.model.dtype)
    if context.world_size > 1 and not context.is_main:
        for _ in module.policy.exported_weights():  # sharded weights are gathered by all ranks together
            pass
        return
    try:
        with whole_folder(folder) as aside:
            module.policy.save(aside, context.tokenizer, dtype)
            describe(aside, context.cfg, context.tokenizer, context.sampling.stop_ids, context.evaluations)
            for name, text in (beside or {}).items():
                (aside / name).write_text(text)
    except Exception as error:
        if not disk_full(error):
            raise
        raise UserError(f"the disk is full: {shown(folder)} could not be written; the checkpoints are whole") from error


def _settle(aside: Path, target: Path) -> None:
    """Give a checkpoint its name once all of it is on disk; a folder gets its checksums first."""
    if aside.is_dir():
        write_sums(aside)
        remove(target)
    os.replace(aside, target)
    sync(target.parent)


def _size(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a number"
