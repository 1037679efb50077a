"""Schema of ``conf/benchmark.yaml``; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.ranges import chosen, ranged


@dataclass
class CaseConfig:
    """One piece of work that both sides do."""

    name: str = MISSING
    model: str | None = None
    """Folder of the model; null: a random one is made from ``shape``."""
    shape: dict[str, Any] = field(default_factory=dict)
    """Qwen2 config values of the random model."""
    dtype: str = chosen("float32", "bfloat16", "auto")
    """Number format of compute on both sides; auto: as model.dtype. Trained parameters are float32."""
    context: int = ranged(1024, at_least=2, at_most=10**8)
    questions: int = ranged(16, at_least=1, at_most=10**6)
    group_size: int = ranged(8, at_least=2, at_most=10**5)
    max_tokens: int = ranged(192, at_least=1, at_most=10**8)
    fixed: bool = False
    """Every response runs to the limit: nothing ends one."""
    active: float | None = ranged(None, at_least=0, at_most=1)
    """Share of groups whose rewards differ; the rewards are drawn. null: the verifier gives them."""
    lengths: list[int] = ranged([], at_least=1, at_most=10**8)
    """Shortest and longest response of a case without sampling: responses are drawn, and the learner alone works."""
    lr: float = ranged(1e-6, at_least=0, at_most=1)
    micro_batch_tokens: int = ranged(16384, at_least=1, at_most=10**8)
    """Most tokens of a forward pass, this project's side."""
    steps: int = ranged(8, at_least=1, at_most=10**6)
    """Rollout steps of each side that count."""
    warmup: int = ranged(2, at_least=0, at_most=10**6)
    """Rollout steps of each side before them that do not."""
    trl_batch: int = ranged(16, at_least=1, at_most=10**6)
    """Responses of a forward pass, TRL's side; it must divide questions * group_size."""
    threads: int | None = ranged(None, at_least=1, at_most=4096)
    """Threads of torch on both sides; null: as many as either takes by itself."""
    engine_threads: list[int] = ranged([], at_least=1, at_most=4096)
    """The engine alone beside bare vLLM on these numbers of threads, one after the other, without TRL."""
    gpu: bool = False
    """Measure on a GPU: this project alone, memory is the device's, the limit is the device's too."""
    gradient_checkpointing: bool = False
    """Of this project's side."""
    compile: bool = False
    """Both sides compile the model they train (model.compile here, torch_compile there)."""
    overrides: list[str] = field(default_factory=list)
    """Further arguments of train.py that belong to the case, this project's side."""


@dataclass
class BenchmarkConfig:
    """Root of ``conf/benchmark.yaml``."""

    name: str = "benchmark"
    """Folder under outputs/."""
    benchmark: CaseConfig = MISSING
    bare: int = ranged(4, at_least=0, at_most=10**6)
    """Comparisons of the engine with vLLM's own LLM.generate on the same requests; 0: none."""
    seed: int = ranged(0, at_least=0, at_most=2**63 - 1)
    trl: str | None = ".venv-trl"
    """Virtual environment of TRL (scripts/set_up_trl.py makes it); null: this project alone."""
    overrides: list[str] = field(default_factory=list)
    """Further arguments of train.py for this project's side, e.g. ['rollout.async=1']."""
    timeout: float = ranged(900.0, above=0, at_most=10**6)
    """Seconds that one step, or the start of a side, may take."""
    growth: list[int] = ranged([], at_least=1, at_most=10**8)
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
