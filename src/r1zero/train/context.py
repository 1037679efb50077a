"""What the callbacks of a run share: the engine, the verifier, the template, the sampling settings, the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from r1zero.batch import Prompt, PromptBatch
from r1zero.config import TrainConfig
from r1zero.rollout.engine import Sampling
from r1zero.rollout.live import LiveEngine

if TYPE_CHECKING:
    from r1zero.learn.module import PolicyGradientModule
    from r1zero.reward.grader import Grader


@dataclass
class RunContext:
    """Built once by ``run.py``; a callback whose constructor takes ``context`` is given it.

    Callbacks never depend on their order. What must happen at a moment that no hook of Lightning marks is a
    function in one of two lists: ``before_sampling`` is called with the policy that is about to sample and the
    batch, ``after_evaluation`` with the policy that was evaluated and its results.
    """

    cfg: TrainConfig
    run_dir: Path
    tokenizer: Any
    engine: LiveEngine
    grader: Grader
    sampling: Sampling
    eval_sampling: Sampling
    benchmarks: dict[str, list[Prompt]]
    trainer: pl.Trainer
    before_sampling: list[Callable[[PolicyGradientModule, PromptBatch], None]] = field(default_factory=list)
    after_evaluation: list[Callable[[PolicyGradientModule, dict[str, Any]], None]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Results so far: {"step": rollout step, benchmark: {metric: value}, "average": {...}}."""
    pending: dict[str, float] = field(default_factory=dict)
    """Figures that wait for the row of the rollout step under way."""
    interrupted: int = 0
    """Number of the signal that asked the run to stop; 0 while none has."""

    @property
    def engine_started(self) -> bool:
        """Whether the engine is there, without starting it."""
        return self.engine.started

    @property
    def rank(self) -> int:
        """This process's number among all ranks."""
        return self.trainer.global_rank

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.trainer.world_size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks to the user."""
        return self.rank == 0

    def close(self) -> None:
        """Free the engine; safe to call twice."""
        self.engine.close()
