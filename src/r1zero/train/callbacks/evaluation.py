"""EvaluationCallback: benchmarks before, during and after training."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.algo.stats import reduce_over_ranks
from r1zero.batch import PromptBatch
from r1zero.launch.seeding import derive_seed
from r1zero.learn.module import PolicyGradientModule
from r1zero.rollout.scoring import evaluate
from r1zero.train.context import RunContext


class EvaluationCallback(pl.Callback):
    """Evaluates the policy that is about to sample, every ``eval.every`` rollout steps and at both ends.

    Evaluation and rollout of step s share one weight sync, and their figures describe the same policy
    (trap 52). Not Lightning's validation loop: the engine wants all questions of a benchmark at once to
    keep its batch full.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        context.before_sampling.append(self._evaluate_where_due)

    def _evaluate_where_due(self, module: PolicyGradientModule, batch: PromptBatch) -> None:
        cfg, step = self.context.cfg.eval, batch.step
        due = cfg.at_start if step == 0 else bool(cfg.every) and step % cfg.every == 0
        if due:
            self._evaluate(module, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the final policy, unless the run was interrupted."""
        assert isinstance(pl_module, PolicyGradientModule)
        done = self.context.evaluations and self.context.evaluations[-1]["step"] == pl_module.rollout_step
        if not self.context.interrupted and not done:
            self._evaluate(pl_module, pl_module.rollout_step)

    @torch.no_grad()
    def _evaluate(self, module: PolicyGradientModule, step: int) -> None:
        context = self.context
        if not context.benchmarks:
            return
        begun = time.perf_counter() - context.engine.start_seconds
        context.engine.sync(module)
        engine: Any = SimpleNamespace(
            generate=lambda *request: context.engine.sampled(module, lambda engine: engine.generate(*request))
        )
        results, _ = evaluate(
            engine,
            context.grader,
            context.benchmarks,
            context.eval_sampling,
            derive_seed(context.cfg.seed, "evaluation", context.rank),
            rank=context.rank,
            world_size=context.world_size,
            reduce_fn=lambda values, how: reduce_over_ranks(values, how, module.device),
        )
        result = {"step": step, **results}
        context.evaluations.append(result)
        context.pending["time/eval"] = time.perf_counter() - context.engine.start_seconds - begun
        context.pending.update(
            {f"eval/{name}/{metric}": value for name, figures in results.items() for metric, value in figures.items()}
        )
        for look in context.after_evaluation:
            look(module, result)

    def state_dict(self) -> dict[str, Any]:
        """Past results, so that a resumed run still knows its first evaluation."""
        return {"evaluations": self.context.evaluations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take past results back."""
        self.context.evaluations[:] = state_dict["evaluations"]
