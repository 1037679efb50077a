"""BiasCallback: what each of the four algorithms would make of the rollout, as figures and as bias.csv."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from r1zero.algo.bias import BiasBins, with_one_in_use
from r1zero.batch import PromptBatch
from r1zero.learn.module import PolicyGradientModule, reduce_over_ranks
from r1zero.train.callbacks.metrics import MetricsFile
from r1zero.train.context import RunContext


class BiasCallback(pl.Callback):
    """Measures the effective weight of tokens against length and of questions against success rate (Fig. 4).

    The weights are functions of rewards and lengths alone, so all four algorithms come with every rollout,
    whichever of them trains; one that is none of the four, such as DAPO, is measured beside them (on several
    ranks by the mean length of each rank's own responses).

    Args:
        context: the run.
        bins: parts of the response limit that lengths are binned into.
    """

    def __init__(self, context: RunContext, bins: int = 16) -> None:
        self.context = context
        cfg = context.cfg
        limit = cfg.rollout.max_tokens
        constant = float(cfg.algo.norm_constant or limit)
        variants = with_one_in_use(cfg.algo.name, cfg.algo.length_norm.value, cfg.algo.std_norm)
        self.bins = BiasBins(cfg.rollout.group_size, constant, limit, bins, variants)
        self.file: MetricsFile | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the table; cut off what a resumed run will write again."""
        assert isinstance(pl_module, PolicyGradientModule)
        if self.context.is_main:
            self.file = MetricsFile(self.context.run_dir / "bias.csv", pl_module.rollout_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the rollout that has just been sampled."""
        assert isinstance(batch, PromptBatch)
        rollout = batch.rollout
        assert rollout is not None
        mine = self.bins.sums(rollout.rewards, rollout.right, rollout.lengths)
        sums = mine.like(reduce_over_ranks(mine.flat(), "sum", pl_module.device))
        rollout.metrics |= sums.metrics()
        if self.file is not None:
            for row in sums.rows(self.bins.limit):
                self.file.append({"step": batch.step, **row})
