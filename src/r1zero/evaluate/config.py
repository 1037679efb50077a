"""Schemas of ``conf/evaluate.yaml``; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.config import DataConfig, ModelConfig, RewardConfig, RolloutConfig, TemplateConfig
from r1zero.ranges import chosen, ranged


@dataclass
class SamplingConfig:
    """How responses are drawn."""

    n: int = ranged(1, at_least=1, at_most=10**5)
    """Responses per question."""
    temperature: float = ranged(0.0, at_least=0, at_most=100, note="0 is greedy")
    """0 is greedy."""
    top_p: float = ranged(1.0, above=0, at_most=1)
    top_k: int = ranged(-1, at_least=-1, at_most=10**7, note="-1 or 0 turns it off")
    max_tokens: int = ranged(3000, at_least=1, at_most=10**8)
    """Response-length limit in tokens."""


@dataclass
class ServerConfig:
    """A model behind an OpenAI-compatible server (``model=server``)."""

    url: str | None = None
    """Base address, such as http://127.0.0.1:8000/v1."""
    model: str | None = None
    """Name the server knows the model by; null: the only one it serves."""
    kind: str = chosen("vllm", "openai")
    """vllm: all sampling fields of vLLM are sent; openai: those of the OpenAI API alone."""
    key_env: str | None = None
    """Environment variable that holds the key; null: the server wants none."""
    concurrency: int = ranged(16, at_least=1, at_most=10**4)
    """Requests under way at the same time."""
    timeout: float = ranged(600.0, above=0, at_most=10**6)
    """Seconds that one request may take."""
    retries: int = ranged(5, at_least=0, at_most=1000)
    """Further attempts after a time-out, a lost connection, or an answer 408, 409, 429 or 5xx; waits grow to 8 s."""


@dataclass
class PaperConfig:
    """The row of the paper that an experiment repeats."""

    table: int = ranged(MISSING, at_least=1, at_most=99)
    row: str = MISSING
    """Name of the row in that table."""
    values: dict[str, float] = ranged({}, at_least=0, at_most=100)
    """Accuracy in percent by benchmark, and "average"."""
    meant: dict[str, float] = ranged({}, at_least=0, at_most=100)
    """Values that differences count against where the printed one is a misprint."""
    notes: dict[str, str] = field(default_factory=dict)
    """What there is to say about a printed value, by benchmark."""
    needs: str = ""
    """What the row needs and this checkout does not bring, in one line."""


@dataclass
class EvaluateConfig:
    """Root of ``conf/evaluate.yaml``."""

    name: str = "evaluate"
    """Folder under outputs/."""
    seed: int = ranged(0, at_least=0, at_most=2**63 - 1)
    """Governs the samples and the bootstrap."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    pass_k: list[int] = ranged([], at_least=1, at_most=10**5)
    """Values of k that the printed table shows; results.json has every k from 1 to sampling.n."""
    limit: int | None = ranged(None, at_least=1, at_most=10**9)
    """Use only the first questions of each benchmark."""
    chunk: int = ranged(128, at_least=1, at_most=10**6)
    """Questions that are sampled together and then written; an interrupted evaluation loses at most one chunk."""
    context: int | None = ranged(None, at_least=2, at_most=10**8)
    """Longest prompt + response of the engine in tokens; null: what the prompts need, model.context at most."""
    dry: bool = False
    """Two questions per benchmark, 16 tokens, prompts cut to fit: a smoke test."""
    device: str = chosen("auto", "cpu", "gpu")
    """auto refuses a large model on a machine without a GPU; cpu insists."""
    bootstrap: int = ranged(2000, at_least=1, at_most=10**6)
    """Resamples of the questions behind the 95 % intervals."""
    model: ModelConfig = MISSING
    template: TemplateConfig = MISSING
    benchmarks: dict[str, DataConfig] = field(default_factory=dict)
    reward: RewardConfig = MISSING
    rollout: RolloutConfig = MISSING
    server: ServerConfig = field(default_factory=ServerConfig)
    overlap: DataConfig | None = None
    """Training set to measure the overlap with (data@overlap=math12k); null: that of the run that made the model."""
    paper: PaperConfig | None = None
    resume: str | None = None
    """Folder of an interrupted evaluation to continue."""
    rescore: str | None = None
    """Folder of a finished evaluation whose responses are graded again, without generating."""
    paths: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schema into Hydra's store, beside those of :func:`r1zero.config.register`."""
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
