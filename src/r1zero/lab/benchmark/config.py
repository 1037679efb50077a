"""Schema of ``conf/benchmark.yaml``; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class CaseConfig:
    """One piece of work that both sides do."""

    name: str = MISSING
    model: str | None = None
    """Folder of the model; null: a random one is made from ``shape``."""
    shape: dict[str, Any] = field(default_factory=dict)
    """Qwen2 config values of the random model."""
    dtype: str = "float32"
    """Number format of compute on both sides; trained parameters are float32."""
    context: int = 1024
    questions: int = 16
    group_size: int = 8
    max_tokens: int = 192
    fixed: bool = False
    """Every response runs to the limit: nothing ends one."""
    active: float | None = None
    """Share of groups whose rewards differ; the rewards are drawn. null: the verifier gives them."""
    lengths: list[int] = field(default_factory=list)
    """Shortest and longest response of a case without sampling: responses are drawn, and the learner alone works."""
    lr: float = 1e-6
    micro_batch_tokens: int = 16384
    """Most tokens of a forward pass, this project's side."""
    steps: int = 8
    """Rollout steps of each side that count."""
    warmup: int = 2
    """Rollout steps of each side before them that do not."""
    trl_batch: int = 16
    """Responses of a forward pass, TRL's side; it must divide questions * group_size."""
    threads: int | None = None
    """Threads of torch on both sides; null: as many as either takes by itself."""
    gpu: bool = False
    """Measure on a GPU: this project alone, memory is the device's, the limit is the device's too."""
    gradient_checkpointing: bool = False
    """Of this project's side."""
    compile: bool = False
    """Both sides compile the model they train (model.compile here, torch_compile there)."""
    overrides: list[str] = field(default_factory=list)
    """Further arguments of train.py that belong to the case, this project's side."""
    trl_paged: bool = False
    """TRL samples by transformers' continuous batching instead of ``generate``."""


@dataclass
class BenchmarkConfig:
    """Root of ``conf/benchmark.yaml``."""

    name: str = "benchmark"
    """Folder under outputs/."""
    benchmark: CaseConfig = MISSING
    bare: int = 4
    """Comparisons of the engine with vLLM's own LLM.generate on the same requests; 0: none."""
    seed: int = 0
    trl: str | None = ".venv-trl"
    """Virtual environment of TRL (scripts/set_up_trl.py makes it); null: this project alone."""
    overrides: list[str] = field(default_factory=list)
    """Further arguments of train.py for this project's side, e.g. ['rollout.async=1']."""
    timeout: float = 900.0
    """Seconds that one step, or the start of a side, may take."""
    growth: list[int] = field(default_factory=list)
    """Instead of one measurement: lengths of responses, at least 3, over which time and memory are fitted."""
    table: str | None = None
    """Instead of measuring: folder of results of which the table is made."""
    into: str | None = None
    """File that takes the table, between its markers; null: it is printed alone."""
    paths: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schemas into Hydra's store, beside those of :func:`r1zero.config.register`."""
    store = ConfigStore.instance()
    store.store(name="benchmark_schema", node=BenchmarkConfig)
    store.store(group="benchmark", name="_schema_", node=CaseConfig)
