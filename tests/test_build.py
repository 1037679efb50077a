"""What a run derives from its config."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from r1zero.build import sync_tolerance
from r1zero.config import ModelConfig, RolloutConfig


def tolerance(model_dtype: str = "float32", **rollout: Any) -> float:
    cfg: Any = SimpleNamespace(
        model=ModelConfig(name="m", path="p", dtype=model_dtype), rollout=RolloutConfig(name="hf", **rollout)
    )
    return sync_tolerance(cfg)


def test_the_tolerance_follows_the_number_formats() -> None:
    assert tolerance("float32") == 1e-3
    assert tolerance("bfloat16") == 0.1
    assert tolerance("float32", dtype="bfloat16") == 0.1
    assert tolerance("float32", sync_tolerance=0.5, top_k=3) == 0.5


def test_a_sampler_that_cuts_the_distribution_may_differ_by_the_mass_it_keeps() -> None:
    """Trap 20: of 4 tokens with p = (0.5, 0.3, 0.15, 0.05), top-p 0.7 keeps 0.8: all differ by -log 0.8."""
    assert tolerance(top_p=0.7) == pytest.approx(1e-3 - math.log(0.7))
    assert -math.log(0.8) < tolerance(top_p=0.7)
    assert tolerance(top_k=2) == math.inf
