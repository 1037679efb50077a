"""Evaluation during training: what it counts as its own time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from r1zero.train.callbacks import evaluation


def test_the_engines_start_is_not_evaluations_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """C15: the first evaluation starts the engine, 90 of its 121 seconds."""
    clock = [0.0]
    engine = SimpleNamespace(start_seconds=0.0)

    def sync(module: Any) -> None:
        clock[0] += 90
        engine.start_seconds += 90

    def evaluate(*arguments: Any, **keywords: Any) -> tuple[dict[str, dict[str, float]], None]:
        clock[0] += 31
        return {"arithmetic": {"accuracy": 0.5}}, None

    engine.sync = sync
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    context: Any = SimpleNamespace(
        engine=engine, benchmarks={"arithmetic": []}, grader=None, eval_sampling=None, rank=0, world_size=1,
        cfg=SimpleNamespace(seed=0), evaluations=[], pending={}, after_evaluation=[], before_sampling=[],
    )  # fmt: skip
    callback = evaluation.EvaluationCallback(context)
    callback._evaluate(SimpleNamespace(device=torch.device("cpu")), 0)  # type: ignore[arg-type]
    assert context.pending == {"time/eval": 31, "eval/arithmetic/accuracy": 0.5}
