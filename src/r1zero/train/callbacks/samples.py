"""CompletionsCallback: every sampled response on disk, a few of them in W&B."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl

from r1zero.batch import PromptBatch
from r1zero.launch.files import whole
from r1zero.launch.run_folder import disk_full, one_line
from r1zero.learn.module import PolicyGradientModule
from r1zero.train.context import RunContext

log = logging.getLogger("r1zero")

FULL_BELOW = 10_000
"""Sampled tokens of a rollout step, over all ranks, below which ``rollout.save=null`` keeps token ids."""


class CompletionsCallback(pl.Callback):
    """Writes ``completions/step_000012.parquet`` per rollout step (one file per rank) and a capped W&B table.

    ``rollout.save`` says whether the files hold token ids too, for ``scripts/audit.py``.

    Args:
        context: the run.
        every: rollout steps between files.
        wandb_every: rollout steps between W&B tables; 0: none.
        wandb_rows: rows of a W&B table. One key, a fixed number of rows: a run does not bloat (trap 59).
    """

    def __init__(self, context: RunContext, every: int = 1, wandb_every: int = 16, wandb_rows: int = 32) -> None:
        self.context = context
        self.every, self.wandb_every, self.wandb_rows = every, wandb_every, wandb_rows
        self._batch: PromptBatch | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the files of steps that a resumed run takes again."""
        assert isinstance(pl_module, PolicyGradientModule)
        if self.context.is_main:
            for path in (self.context.run_dir / "completions").glob("step_*"):
                if path.suffix == ".tmp" or int(path.stem.split("_")[1]) >= pl_module.rollout_step:
                    path.unlink()
        trainer.strategy.barrier("completions")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch, for an error in the middle of it."""
        self._batch = batch

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep the responses of a step that failed, to look at: ``failed_step_000012.parquet``."""
        batch = self._batch
        if batch is None or batch.rollout is None or isinstance(exception, KeyboardInterrupt) or disk_full(exception):
            return
        rank = "" if self.context.world_size == 1 else f"_rank{self.context.rank}"
        path = self.context.run_dir / f"failed_step_{batch.step:06d}{rank}.parquet"
        with whole(path) as aside:
            completions_table(batch, self.context.rank, full=True).to_parquet(aside, index=False)
        log.info("the responses of the failed step are in %s", path)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the responses of the step that has just ended."""
        assert isinstance(batch, PromptBatch)
        self._batch = None
        if batch.step % self.every == 0:
            table = completions_table(batch, self.context.rank, full=self.keeps_ids(batch))
            folder = self.context.run_dir / "completions"
            folder.mkdir(parents=True, exist_ok=True)
            suffix = "" if self.context.world_size == 1 else f"_rank{self.context.rank}"
            path = folder / f"step_{batch.step:06d}{suffix}.parquet"
            with whole(path) as aside:
                table.to_parquet(aside, index=False, write_page_checksum=True)
        if self.context.is_main and self.wandb_every and batch.step % self.wandb_every == 0:
            for logger in trainer.loggers:
                if isinstance(logger, pl.loggers.WandbLogger):
                    rows = completions_table(batch, self.context.rank, full=False).head(self.wandb_rows)
                    self._send(logger, rows, batch.step)

    def keeps_ids(self, batch: PromptBatch) -> bool:
        """Whether a step's file holds what a recomputation needs; all ranks decide alike."""
        assert batch.rollout is not None
        save = self.context.cfg.rollout.save
        if save is not None:
            return save == "full"
        responses = len(batch.rollout.completions) * self.context.world_size
        return batch.rollout.metrics["length/mean"] * responses < FULL_BELOW

    def _send(self, logger: pl.loggers.WandbLogger, rows: pd.DataFrame, step: int) -> None:
        """Give W&B a table; it asks its server about tables, other than about figures, and the server may be gone."""
        try:
            logger.log_table("completions", dataframe=rows, step=step)
        except Exception as error:
            if disk_full(error):
                raise
            self.wandb_every = 0
            log.warning(
                "W&B took no table of responses (%s): no more are sent; all are in completions/", one_line(error)
            )


def completions_table(batch: PromptBatch, rank: int, *, full: bool) -> pd.DataFrame:
    """One row per response of a rollout step, in group order.

    Args:
        batch: the step's questions and responses.
        rank: this process's number; ``response`` counts over all ranks.
        full: also the columns from which ``scripts/audit.py`` recomputes the step: ``graded``, the reward before
            ``algo.overlong``'s punishment and ``algo.kl_in_reward``'s penalty, ``prompt_ids``, ``ids``, the sampler's
            ``logprobs``, ``mask`` (null where all tokens are trained on), ``sampled`` (null where all are the
            policy's), ``credit`` (null where all weigh alike) and ``measured``, whether the learner's figures are taken
            over it.
    """
    rollout = batch.rollout
    assert rollout is not None
    members = [set(update.members) for update in rollout.updates]
    rows: list[dict[str, Any]] = []
    for i, (completion, grade) in enumerate(zip(rollout.completions, rollout.grades, strict=True)):
        prompt = batch.prompts[i // rollout.group_size]
        response = rank * len(rollout.completions) + i
        row: dict[str, Any] = {
            "step": batch.step,
            "response": response,
            "group": i // rollout.group_size,
            "source": prompt.question.source,
            "row": prompt.question.row,
            "question": prompt.question.text,
            "completion": completion.text,
            "gold": list(prompt.question.gold),
            "extracted": grade.extracted,
            "reward": float(rollout.rewards[i]),
            "right": bool(rollout.right[i]),
            "status": grade.status.value,
            "rule": grade.rule,
            "seconds": grade.seconds,
            "tokens": completion.length,
            "finish_reason": completion.finish_reason,
            "advantage": float(rollout.advantages[i]),
            "policy_version": rollout.version,
            "optimizer_steps": [number for number, update in enumerate(members) if response in update],
        }
        if full:
            logprobs, credit = completion.logprobs, None if rollout.credit is None else rollout.credit[i]
            row |= {
                "graded": grade.reward,
                "prompt_ids": np.array(prompt.ids, np.int32),
                "ids": np.array(completion.ids, np.int32),
                "logprobs": None if logprobs is None else np.array(logprobs, np.float32),
                "mask": None if rollout.mask[i].all() else rollout.mask[i].numpy(),
                "sampled": None if completion.mask is None else np.array(completion.mask),
                "credit": None if credit is None else credit.numpy(),
                "measured": rollout.measured is None or bool(rollout.measured[i]),
            }
        rows.append(row)
    return pd.DataFrame(rows)
