"""Schemas of ``conf/analyze.yaml`` and of the judge; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.config import DataConfig, ModelConfig, RewardConfig, RolloutConfig, TemplateConfig
from r1zero.evaluate.config import SamplingConfig, ServerConfig


@dataclass
class JudgePromptConfig:
    """One thing that the judge is asked about a response."""

    labels: list[int] = field(default_factory=list)
    """Labels the judge may give; any other answer is unparsable."""
    system: str = MISSING
    user: str = MISSING
    """Text with {question} and {response}; the judge is to end with a line "LABEL: <number>"."""


@dataclass
class JudgeConfig:
    """Who labels responses, and at what price."""

    name: str = MISSING
    via: str = MISSING
    """server: an OpenAI-compatible end point; model: a model in this process; none: keywords alone."""
    url: str | None = None
    """Base address of the end point."""
    model: str | None = None
    """Name the end point knows the judge by; for via=model a folder or hub id."""
    key_env: str | None = None
    """Environment variable that holds the key; null: the end point wants none."""
    concurrency: int = 16
    """Requests under way at the same time."""
    timeout: float = 120.0
    """Seconds that one request may take."""
    retries: int = 6
    """Further attempts after a time-out, a lost connection, or an answer 408, 409, 429 or 5xx."""
    backoff: float = 1.0
    """Seconds before the first further attempt; doubled before each next one, a minute at most."""
    max_tokens: int = 512
    """Longest answer of the judge."""
    temperature: float = 0.0
    context: int = 8192
    """Context of a judge in this process, in tokens."""
    dtype: str = "bfloat16"
    """Number format of a judge in this process."""
    price_in: float | None = None
    """Dollars per million tokens read; null: no cost is given."""
    price_out: float | None = None
    """Dollars per million tokens written."""
    answering_per_question: int | None = 1
    """Responses per question and temperature whose answering is judged; null: all."""
    reflection: str = "keyword"
    """keyword: only responses with a keyword are judged for self-reflection; all: every response."""
    longest: int = 16000
    """Longest response shown to the judge, in characters; of a longer one the middle is left out."""
    prompts: dict[str, JudgePromptConfig] = field(default_factory=dict)
    """The prompts "answering" and "reflection"."""


@dataclass
class AnalyzeConfig:
    """Root of ``conf/analyze.yaml``."""

    name: str = "analyze"
    """Folder under outputs/."""
    seed: int = 0
    """Governs the choice of questions, the samples and the bootstrap."""
    questions: int = 500
    """Questions, chosen at random by the seed."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Of each temperature; sampling.temperature itself is not used."""
    temperatures: list[float] = field(default_factory=list)
    """Temperatures that are compared."""
    pass_k: int = 8
    """k of the exploration figure, at most sampling.n."""
    chunk: int = 128
    """Questions that are sampled together and then written."""
    context: int | None = None
    """Longest prompt + response of the engine in tokens; null: what the prompts need, model.context at most."""
    dry: bool = False
    """Two questions, 16 tokens, prompts cut to fit: does everything work at all?"""
    device: str = "auto"
    """auto refuses a large model on a machine without a GPU; cpu insists."""
    bootstrap: int = 2000
    """Resamples of the questions behind the 95 % intervals."""
    excerpts: int = 60
    """Responses shown in excerpts.html."""
    model: ModelConfig = MISSING
    template: TemplateConfig = MISSING
    data: DataConfig = MISSING
    reward: RewardConfig = MISSING
    rollout: RolloutConfig = MISSING
    server: ServerConfig = field(default_factory=ServerConfig)
    judge: JudgeConfig = MISSING
    resume: str | None = None
    """Folder of an interrupted analysis to go on with."""
    paths: dict[str, Any] = field(default_factory=dict)

    @property
    def limit(self) -> None:
        """The set is not cut before questions are chosen."""
        return None


def register() -> None:
    """Put the schemas into Hydra's store, beside those of :func:`r1zero.config.register`."""
    store = ConfigStore.instance()
    store.store(name="analyze_schema", node=AnalyzeConfig)
    store.store(group="judge", name="_schema_", node=JudgeConfig)
