"""RolloutCallback: turns the questions of a batch into responses, rewards and advantages."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.algo.advantages import group_advantages
from r1zero.algo.stats import Tally, rollout_summary
from r1zero.batch import Completion, PromptBatch, RolloutBatch
from r1zero.context import RunContext
from r1zero.evaluation import grade_texts
from r1zero.module import PolicyGradientModule, reduce_over_ranks
from r1zero.reward.outcome import Outcome
from r1zero.seeding import derive_seed


class RolloutCallback(pl.Callback):
    """At the start of each batch: sync weights if the engine is behind, generate, verify, compute advantages.

    Lightning hands ``training_step`` the very object that this hook fills in place. The hook runs
    outside autocast, so log-probabilities are the module's business, not ours.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Fill ``batch.rollout``."""
        assert isinstance(batch, PromptBatch)
        assert isinstance(pl_module, PolicyGradientModule)
        context, cfg = self.context, self.context.cfg
        synced = context.sync(pl_module)
        started = time.perf_counter()
        seed = derive_seed(cfg.seed, "rollout", batch.step, context.rank)
        prompts = [p.ids for p in batch.prompts]
        groups = context.sampled(pl_module, lambda engine: engine.generate(prompts, context.sampling, seed))
        completions = [completion for group in groups for completion in group]
        generated = time.perf_counter()
        grades = self._grade(batch, completions)
        graded = time.perf_counter()
        rewards = torch.tensor([grade.reward for grade in grades])
        advantages = group_advantages(rewards, cfg.rollout.group_size, std_norm=cfg.algo.std_norm)
        truncated = torch.tensor([c.truncated for c in completions])
        keep = ~truncated if cfg.algo.truncated.value == "exclude" else torch.ones_like(truncated)
        assert context.engine.version is not None
        batch.rollout = RolloutBatch(
            completions, cfg.rollout.group_size, context.engine.version, rewards, advantages, keep, grades
        )
        batch.rollout.metrics = self._metrics(pl_module, batch.rollout, truncated)
        batch.rollout.metrics |= {
            "time/sync": synced,
            "time/rollout": generated - started,
            "time/reward": graded - generated,
            "sync/version": float(pl_module.policy_version),
        }
        tokens = batch.rollout.metrics.pop("tokens")
        batch.rollout.metrics["throughput/rollout_tokens_per_s"] = tokens / (generated - started)
        context.engine.sleep()

    def _grade(self, batch: PromptBatch, completions: list[Completion]) -> list[Outcome]:
        group = self.context.cfg.rollout.group_size
        return grade_texts(
            self.context.grader,
            [
                (batch.prompts[i // group].question, completion.text, completion.truncated, len(completion.ids))
                for i, completion in enumerate(completions)
            ],
        )

    def _metrics(
        self, module: PolicyGradientModule, rollout: RolloutBatch, truncated: torch.Tensor
    ) -> dict[str, float]:
        """Figures over the responses of all ranks."""
        lengths = torch.tensor([float(len(c.ids)) for c in rollout.completions])
        tally = Tally()
        rollout_summary(tally, rollout.rewards, lengths, truncated, rollout.advantages, rollout.group_size)
        tally.total("tokens", lengths.sum().item())
        health = self.context.grader.stats(rollout.grades)
        # Shares of this rank's responses; every rank holds as many.
        for name in ("timeouts", "failures", "unparsed", "fast_path_frac"):
            tally.mean(f"reward/{name}", torch.tensor([health[name]]))
        tally.maximum("reward/seconds_p99", health["seconds_p99"])
        metrics = tally.reduce(lambda values, how: reduce_over_ranks(values, how, module.device))
        variance = metrics.pop("reward/second_moment") - metrics["reward/mean"] ** 2
        metrics["reward/std"] = math.sqrt(max(variance, 0.0))
        self.context.grader.check_health(rollout.grades, metrics["reward/failures"])
        return metrics
