"""Schema of ``conf/pipeline.yaml``; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.config import DataConfig, ModelConfig
from r1zero.ranges import ranged


@dataclass
class PipelineConfig:
    """Root of ``conf/pipeline.yaml``. The three stages' settings are those of their own commands."""

    name: str = "pipeline"
    """Folder under outputs/; an existing name continues with what is missing."""
    seed: int = ranged(0, at_least=0, at_most=2**63 - 1)
    """Seed of every stage and of the choice of held-out questions."""
    heldout: int = ranged(400, at_least=1, at_most=10**9)
    """Questions of ``data`` that RL never sees; every evaluation asks them."""
    model: ModelConfig = MISSING
    """The model to begin with; of it, name and path are handed on."""
    data: DataConfig = MISSING
    """Questions of RL and, apart from them, of the evaluations."""
    benchmarks: dict[str, DataConfig] = field(default_factory=dict)
    """Further question sets of the evaluations."""
    pretrain: dict[str, Any] = field(default_factory=dict)
    """Settings of scripts/pretrain.py; null leaves one as it is there. ``more`` lists arguments as they are typed."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of train.py, in the same way."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Settings of scripts/evaluate.py, in the same way."""
    paths: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schema into Hydra's store, beside those of :func:`r1zero.config.register`."""
    ConfigStore.instance().store(name="pipeline_schema", node=PipelineConfig)
