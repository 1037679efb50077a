"""Typed schema of ``conf/serve.yaml``. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.config import ModelConfig, RolloutConfig


@dataclass
class ServeConfig:
    """Root of ``conf/serve.yaml``."""

    host: str = "127.0.0.1"
    """Address to listen at. Any but loopback needs a token, and a network where nobody reads along."""
    port: int = 8001
    """Port of the first server; the others follow. 0: free ones."""
    seed: int = 0
    """Seed of the engines themselves; what is sampled is governed by each request."""
    model: ModelConfig = MISSING
    rollout: RolloutConfig = MISSING
    paths: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schema into Hydra's store, beside those of :func:`r1zero.config.register`."""
    ConfigStore.instance().store(name="serve_schema", node=ServeConfig)
