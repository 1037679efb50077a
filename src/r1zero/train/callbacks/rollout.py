"""RolloutCallback: has the questions of a batch turned into what the loss uses."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from r1zero.batch import PromptBatch
from r1zero.data.samplers import SampledLoader
from r1zero.learn.module import PolicyGradientModule
from r1zero.rollout.collect import Collector
from r1zero.train.context import RunContext


class RolloutCallback(pl.Callback):
    """Fills each batch at its start. Part of every run, in front of the callbacks of the config.

    Lightning hands ``training_step`` the very object that this hook fills in place. The hook runs
    outside autocast, so log-probabilities are the module's business, not the collector's.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.collector = Collector(context.cfg, context.engine, context.grader, context.sampling, context.tokenizer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let those look who want the policy before it samples, then fill ``batch.rollout``."""
        assert isinstance(batch, PromptBatch)
        assert isinstance(pl_module, PolicyGradientModule)
        for look in self.context.before_sampling:
            look(pl_module, batch)
        cfg, loader, step = self.context.cfg, trainer.train_dataloader, batch.step + 1
        ahead = cfg.rollout.async_steps and step < cfg.steps and not self.context.interrupted
        self.collector.collect(
            pl_module,
            batch,
            following=loader.batch(step) if ahead else None,  # type: ignore[union-attr]
            history=loader if isinstance(loader, SampledLoader) else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Responses that wait for their step: a resumed run trains on the very same."""
        return {"ahead": self.context.engine.ahead.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.context.engine.ahead.restore(state_dict.get("ahead", {}))
