"""This project's side: callbacks that let a run take a step on request, and stand-ins for its parts."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.batch import Completion, PromptBatch
from r1zero.lab.benchmark import trl_side
from r1zero.lab.benchmark.bare import compare
from r1zero.lab.benchmark.trl_side import say
from r1zero.learn.module import PolicyGradientModule
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.outcome import Outcome, Status
from r1zero.rollout.engine import Sampling
from r1zero.train.callbacks.rollout import RolloutCallback
from r1zero.train.context import RunContext

PARTS = {
    "time/rollout": "rollout",
    "time/reward": "reward",
    "time/sync": "sync",
    "time/old_logprobs": "old_logprobs",
    "time/forward_backward": "forward_backward",
    "time/optimizer": "optimizer",
}


def peak_memory() -> int:
    """Most memory so far, bytes: of the GPU that is worked on; else resident sets, started processes included."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return trl_side.peak_memory()


class TurnStart(pl.Callback):
    """Puts the stand-ins in place, then waits for its turn before every step.

    Args:
        context: the run's parts.
        fixed: nothing ends a response before the limit.
        active: share of groups whose drawn rewards differ; None: the verifier gives rewards.
        lengths: shortest and longest drawn response; empty: the engine samples.
        end: the callback that reports the step.
    """

    def __init__(self, context: RunContext, fixed: bool, active: float | None, lengths: Sequence[int]) -> None:
        self.context, self.fixed, self.active, self.lengths = context, fixed, active, list(lengths)
        self.started = 0.0
        context.before_sampling.insert(0, self._wait)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the stand-ins in place."""
        context = self.context
        collector = next(c for c in trainer.callbacks if isinstance(c, RolloutCallback)).collector  # type: ignore[attr-defined]
        if self.fixed:
            context.sampling = collector.sampling = Sampling(**{**vars(context.sampling), "stop": (), "stop_ids": ()})
        if self.active is not None:
            drawn = DrawnRewards(context.grader.config, self.active, context.cfg.rollout.group_size)
            context.grader = collector.grader = collector.grading.grader = drawn
        if self.lengths:
            context.engine.start = lambda: DrawnResponses(context.cfg.seed, self.lengths)
        say(kind="start", torch=torch.__version__, threads=torch.get_num_threads())

    def _wait(self, module: PolicyGradientModule, batch: PromptBatch) -> None:
        """Compare with the bare engine where that is asked for."""
        while True:
            say(kind="ready")
            command = sys.stdin.readline().split()
            if command == ["step"]:
                break
            if not command or command[0] != "bare":
                raise SystemExit(0)
            self.context.engine.sync(module)
            rounds, *threads = map(int, command[1:])
            prompts = [p.ids for p in batch.prompts]
            say(kind="bare", rounds=compare(self.context.engine.now, prompts, self.context.sampling, rounds, threads))
        if isinstance(self.context.grader, DrawnRewards):
            self.context.grader.begin(batch)
        self.started = time.perf_counter()


class TurnEnd(pl.Callback):
    """Says how the step went."""

    def __init__(self, context: RunContext) -> None:
        self.context = context

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report seconds by part."""
        assert isinstance(batch, PromptBatch)
        assert isinstance(pl_module, PolicyGradientModule)
        assert batch.rollout is not None
        start = next(c for c in trainer.callbacks if isinstance(c, TurnStart))  # type: ignore[attr-defined]
        seconds = time.perf_counter() - start.started
        figures = batch.rollout.metrics | pl_module.step_metrics
        say(
            kind="step",
            seconds=seconds,
            parts={part: figures[name] for name, part in PARTS.items() if name in figures},
            tokens=sum(c.length for c in batch.rollout.completions),
            prompt_tokens=sum(len(p.ids) for p in batch.prompts) * batch.rollout.group_size,
            longest=max(c.length for c in batch.rollout.completions),
            learned=figures["throughput/learn_tokens_per_s"] * figures["time/learn"],
            inactive=figures["group/zero_advantage_frac"],
            peak=peak_memory(),
        )


class DrawnRewards(Grader):
    """Rewards 0, 1, 0, 1, ... within the first groups of a step, 0 in the others: a stated share is active."""

    def __init__(self, config: Any, active: float, group_size: int) -> None:
        super().__init__(config)
        self.active, self.group_size = active, group_size
        self.wanted: set[str] = set()
        self.count: dict[str, int] = {}

    def begin(self, batch: PromptBatch) -> None:
        """Settle which questions of a step are active."""
        on = round(self.active * len(batch.prompts))
        self.wanted, self.count = {p.question.text for p in batch.prompts[:on]}, {}

    def submit(self, item: GradeItem) -> Future[Outcome]:
        """The next reward of this question's group."""
        seen = self.count[item.question] = self.count.get(item.question, -1) + 1
        right = item.question in self.wanted and seen % 2 == 1
        future: Future[Outcome] = Future()
        future.set_result(Outcome(Status.right if right else Status.wrong, float(right)))
        return future


class DrawnResponses:
    """Stands in for an engine where the learner alone is measured: random tokens, drawn lengths."""

    def __init__(self, seed: int, lengths: Sequence[int]) -> None:
        self.version: int | None = None
        self.seed, self.lengths, self.calls = seed, lengths, 0

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """Responses without log-probabilities of a sampler, in the order in which TRL's side draws them."""
        rng = random.Random(f"{self.seed}/{self.calls}")
        self.calls += 1
        low, high = self.lengths
        flat = [
            Completion([rng.randrange(4, 384) for _ in range(rng.randint(low, high))], "", "stop")
            for _ in range(len(prompts) * sampling.n)
        ]
        return [flat[i : i + sampling.n] for i in range(0, len(flat), sampling.n)]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Nothing to load."""
        self.version = version

    def sleep(self) -> None:
        """Nothing to free."""

    def wake(self) -> None:
        """Nothing to bring back."""

    def close(self) -> None:
        """Nothing to close."""
