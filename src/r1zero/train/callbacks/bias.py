"""BiasCallback: what the objective that runs, and each of the paper's four, makes of the rollout."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.algo.bias import BiasBins
from r1zero.algo.meter import response_weights, trained_tokens
from r1zero.algo.objective import Scale
from r1zero.algo.stats import reduce_over_ranks
from r1zero.batch import PromptBatch
from r1zero.learn.module import PolicyGradientModule
from r1zero.train.callbacks.metrics import MetricsFile
from r1zero.train.context import RunContext


class BiasCallback(pl.Callback):
    """Measures the effective weight of tokens against length and of questions against success rate (Fig. 4).

    The four algorithms of the paper are references: their weights follow from rewards and lengths, whichever of
    them trains. The column ``running`` is what the learner's own objective does with this rollout, masks, credit
    and advantages included, the rollout taken as one optimizer step; ``algorithm`` says its name.

    Args:
        context: the run.
        bins: parts of the response limit that lengths are binned into.
    """

    def __init__(self, context: RunContext, bins: int = 16) -> None:
        self.context = context
        cfg = context.cfg
        limit = cfg.rollout.max_tokens
        self.bins = BiasBins(cfg.rollout.group_size, float(cfg.algo.norm_constant or limit), limit, bins)
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
        assert isinstance(pl_module, PolicyGradientModule)
        learner, device = pl_module.learner, pl_module.device
        counts = torch.tensor([float(len(rollout.completions)), float(trained_tokens(rollout))], dtype=torch.float64)
        responses, tokens = reduce_over_ranks(counts, "sum", device).tolist()
        scale = Scale(int(responses), int(tokens), learner.constant)
        running = response_weights(learner.objective, learner.algo, scale, rollout)
        mine = self.bins.sums(rollout.rewards, rollout.right, rollout.lengths, running)
        sums = mine.like(reduce_over_ranks(mine.flat(), "sum", device))
        rollout.metrics |= sums.metrics()
        if self.file is not None:
            for row in sums.rows(self.bins.limit):
                self.file.append({"step": batch.step, "algorithm": learner.algo.name, **row})
