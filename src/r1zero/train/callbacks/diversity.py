"""DiversityCallback: how different the responses of a group are."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.algo.diversity import distinct_answers, distinct_n, self_similarity
from r1zero.algo.stats import Tally, reduce_over_ranks
from r1zero.batch import PromptBatch
from r1zero.train.context import RunContext


class DiversityCallback(pl.Callback):
    """Measures how different the responses of a group are.

    Args:
        context: the run.
        n: length of the n-grams, tokens.
        every: rollout steps between measurements; pairs of long responses cost time.
    """

    def __init__(self, context: RunContext, n: int = 4, every: int = 1) -> None:
        self.context, self.n, self.every = context, n, every

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add the ``diversity/`` figures."""
        assert isinstance(batch, PromptBatch)
        if batch.step % self.every:
            return
        rollout = batch.rollout
        assert rollout is not None
        tally, group = Tally(), rollout.group_size
        for first in range(0, len(rollout.completions), group):
            texts = [c.ids for c in rollout.completions[first : first + group]]
            answers = [g.extracted for g in rollout.grades[first : first + group]]
            for name, value in (
                ("distinct_answers", float(distinct_answers(answers))),
                (f"distinct_{self.n}", distinct_n(texts, self.n)),
                ("self_similarity", self_similarity(texts, self.n)),
            ):
                tally.mean(f"diversity/{name}", torch.tensor([value]))
        rollout.metrics |= tally.reduce(lambda values, how: reduce_over_ranks(values, how, pl_module.device))
