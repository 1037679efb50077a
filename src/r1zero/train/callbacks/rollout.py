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
from r1zero.learn.module import PolicyGradientModule, reduce_over_ranks
from r1zero.rollout.ahead import Sampled
from r1zero.rollout.engine import Engine
from r1zero.seeding import derive_seed
from r1zero.train.callbacks.grading import Grading
from r1zero.train.context import RunContext


class RolloutCallback(pl.Callback):
    """At the start of each batch: sync weights if the engine is behind, generate, verify, compute advantages.

    Lightning hands ``training_step`` the very object that this hook fills in place. The hook runs
    outside autocast, so log-probabilities are the module's business, not ours.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.grading = Grading(context)

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Fill ``batch.rollout``."""
        assert isinstance(batch, PromptBatch)
        assert isinstance(pl_module, PolicyGradientModule)
        context, cfg = self.context, self.context.cfg
        begun = time.perf_counter()
        sampled, synced = context.ahead.take(batch.step), 0.0
        if sampled is None:
            synced = context.sync(pl_module)
            begun = time.perf_counter()
            groups = context.sampled(pl_module, lambda engine: self._generate(engine, batch))
            assert context.engine.version is not None
            sampled = Sampled(batch.step, context.engine.version, groups)
        completions = [completion for group in sampled.groups for completion in group]
        generated = time.perf_counter()
        grades = self.grading.outcomes(batch, sampled.groups)
        graded = time.perf_counter()
        rewards = torch.tensor([grade.reward for grade in grades])
        batch.rollout = RolloutBatch(
            completions,
            cfg.rollout.group_size,
            sampled.version,
            rewards,
            torch.tensor([grade.right for grade in grades]),
            trained_tokens(completions, exclude_truncated=cfg.algo.truncated.value == "exclude"),
            group_advantages(rewards, cfg.rollout.group_size, std_norm=cfg.algo.std_norm),
            prompts=batch.prompts,
            grades=grades,
        )
        batch.rollout.metrics = self._metrics(pl_module, batch.rollout)
        batch.rollout.metrics |= {
            "time/sync": synced,
            "time/rollout": generated - begun,
            "time/reward": graded - generated,
            "sync/version": float(sampled.version),
            "sync/lag": float(pl_module.policy_version - sampled.version),
        }
        tokens = batch.rollout.metrics.pop("tokens")
        batch.rollout.metrics["throughput/rollout_tokens_per_s"] = tokens / max(generated - begun, 1e-9)
        if not cfg.rollout.async_steps:
            context.engine.sleep()
        elif batch.step + 1 < cfg.steps and not context.interrupted:
            batch.rollout.metrics["time/sync"] += self._start_ahead(trainer, pl_module, batch.step + 1)

    def _generate(self, engine: Engine, batch: PromptBatch) -> list[list[Completion]]:
        """Sample a step's responses; where the engine tells of finished groups, they are graded meanwhile."""
        seed = derive_seed(self.context.cfg.seed, "rollout", batch.step, self.context.rank)
        with self.grading.listening(engine, batch):
            return engine.generate([p.ids for p in batch.prompts], self.context.sampling, seed)

    def _start_ahead(self, trainer: pl.Trainer, module: PolicyGradientModule, step: int) -> float:
        """Let the engine sample the next step with the weights of now; seconds that loading them took."""
        context = self.context
        synced = context.sync(module)
        batch: PromptBatch = trainer.train_dataloader.batch(step)  # type: ignore[union-attr]
        engine, version = context.engine, module.policy_version
        context.ahead.start(lambda: Sampled(step, version, self._generate(engine, batch)))
        return synced

    def state_dict(self) -> dict[str, Any]:
        """Responses that wait for their step: a resumed run trains on the very same."""
        return {"ahead": self.context.ahead.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.context.ahead.restore(state_dict.get("ahead", {}))

    def _metrics(self, module: PolicyGradientModule, rollout: RolloutBatch) -> dict[str, float]:
        """Figures over the responses of all ranks."""
        lengths, tally = rollout.lengths, Tally()
        rollout_summary(
            tally,
            rollout.rewards,
            rollout.right,
            lengths,
            rollout.truncated,
            rollout.advantages,
            rollout.group_size,
        )
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


def trained_tokens(completions: list[Completion], *, exclude_truncated: bool) -> list[torch.Tensor]:
    """The tokens that are trained on: bool [T_i] a response, all False for one that the loss leaves out."""
    return [c.sampled() & (not (exclude_truncated and c.truncated)) for c in completions]
