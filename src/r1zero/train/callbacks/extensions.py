"""Callbacks of the open questions: credit over tokens, question sampling, diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.algo.advantages import group_advantages
from r1zero.algo.credit import CREDITS, allocate
from r1zero.algo.diversity import distinct_answers, distinct_n, self_similarity
from r1zero.algo.stats import Tally
from r1zero.batch import PromptBatch, RolloutBatch
from r1zero.data.samplers import SampledLoader
from r1zero.errors import UserError
from r1zero.launch.plugins import find_function
from r1zero.learn.module import reduce_over_ranks
from r1zero.train.context import RunContext


class CreditCallback(pl.Callback):
    """Puts the user's own advantages and token weights in place of the paper's. Must stand after RolloutCallback.

    ``algo.advantage`` names a function (rewards [N], group_size, **params) -> advantages [N];
    ``algo.credit`` a rule of :mod:`r1zero.algo.credit` or one of the user's.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        algo = context.cfg.algo
        self.advantage = find_function(
            algo.advantage, {"group": group_advantages}, "algo.advantage", algo.advantage_params
        )
        self.credit = find_function(algo.credit, CREDITS, "algo.credit", algo.credit_params)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Fill ``batch.rollout.advantages`` and ``batch.rollout.credit`` where they are not the paper's."""
        assert isinstance(batch, PromptBatch)
        algo, rollout = self.context.cfg.algo, batch.rollout
        if rollout is None:
            raise RuntimeError("the batch holds no rollout: put callbacks.credit after callbacks.rollout")
        try:
            setting = f"algo.advantage={algo.advantage}"
            if algo.advantage != "group":
                rollout.advantages = self._advantages(rollout)
            setting = f"algo.credit={algo.credit}"
            if algo.credit != "uniform":
                rollout.credit = allocate(self.credit, rollout, self._decode, algo.credit_params)
        except Exception as error:
            raise UserError(f"{setting} failed: {type(error).__name__}: {error}") from error

    def _advantages(self, rollout: RolloutBatch) -> torch.Tensor:
        made = self.advantage(rollout.rewards, rollout.group_size, **self.context.cfg.algo.advantage_params)
        made = torch.as_tensor(made, dtype=torch.float32)
        if made.shape != rollout.rewards.shape or not torch.isfinite(made).all():
            raise ValueError(
                f"it gave {tuple(made.shape)}; {tuple(rollout.rewards.shape)} finite advantages are needed"
            )
        return made

    def _decode(self, ids: Sequence[int]) -> str:
        return self.context.tokenizer.decode(ids, skip_special_tokens=False)


class HistoryCallback(pl.Callback):
    """Tells the question sampler how the policy fared. Must stand after RolloutCallback."""

    def __init__(self, context: RunContext) -> None:
        self.context = context

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the success rates of the step's questions, over all ranks."""
        assert isinstance(batch, PromptBatch)
        loader = trainer.train_dataloader
        if not isinstance(loader, SampledLoader):
            return
        if batch.rollout is None:
            raise RuntimeError("the batch holds no rollout: put callbacks.history after callbacks.rollout")
        right = batch.rollout.right.double().view(-1, batch.rollout.group_size)
        rates = torch.zeros(self.context.world_size, len(right), dtype=torch.float64)
        rates[self.context.rank] = right.mean(dim=1)
        rates = reduce_over_ranks(rates, "sum", pl_module.device)
        loader.record(batch.step, rates.flatten().tolist())
        batch.rollout.metrics["sampler/known"] = float(len(loader.history.rates))


class DiversityCallback(pl.Callback):
    """Measures how different the responses of a group are. Must stand after RolloutCallback, before MetricsCallback.

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
        if rollout is None:
            raise RuntimeError("the batch holds no rollout: put callbacks.diversity after callbacks.rollout")
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
