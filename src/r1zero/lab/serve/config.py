"""Typed schema of ``conf/serve.yaml``. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.config import ModelConfig, RolloutConfig
from r1zero.ranges import ranged


@dataclass
class ServeConfig:
    """Root of ``conf/serve.yaml``."""

    host: str = "127.0.0.1"
    """Address to listen at. Any but loopback needs a token, and a network where nobody reads along."""
    port: int = ranged(8001, at_least=0, at_most=65535, note="0 takes any free one")
    """Port of the first server; the others follow. 0: free ones."""
    seed: int = ranged(0, at_least=0, at_most=2**63 - 1)
    """Seed of the engines themselves; what is sampled is governed by each request."""
    model: ModelConfig = MISSING
    rollout: RolloutConfig = MISSING
    paths: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schema into Hydra's store, beside those of :func:`r1zero.config.register`."""
    ConfigStore.instance().store(name="serve_schema", node=ServeConfig)
