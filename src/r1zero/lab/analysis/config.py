"""Schemas of ``conf/analyze.yaml`` and of the judge; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.config import DataConfig, ModelConfig, RewardConfig, RolloutConfig, TemplateConfig
from r1zero.evaluate.config import SamplingConfig, ServerConfig
from r1zero.ranges import chosen, ranged


@dataclass
class JudgePromptConfig:
    """One thing that the judge is asked about a response."""

    labels: list[int] = ranged([], at_least=-(10**6), at_most=10**6)
    """Labels the judge may give; any other answer is unparsable."""
    system: str = MISSING
    user: str = MISSING
    """Text with {question} and {response}; the judge is to write a line "LABEL: <number>"."""
    line: str = chosen("last", "first")
    """Line of the answer that holds the label; what stands in the others is not looked at."""


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
    concurrency: int = ranged(16, at_least=1, at_most=10**4)
    """Requests under way at the same time."""
    timeout: float = ranged(120.0, above=0, at_most=10**6)
    """Seconds that one request may take."""
    retries: int = ranged(6, at_least=0, at_most=1000)
    """Further attempts after a time-out, a lost connection, or an answer 408, 409, 429 or 5xx; waits grow to 8 s."""
    max_tokens: int = ranged(512, at_least=1, at_most=10**8)
    """Longest answer of the judge."""
    temperature: float = ranged(0.0, at_least=0, at_most=100, note="0 is greedy")
    context: int = ranged(8192, at_least=2, at_most=10**8)
    """Context of a judge in this process, in tokens."""
    dtype: str = chosen("auto", "bfloat16", "float32")
    """Number format of a judge in this process; auto: as model.dtype."""
    price_in: float | None = ranged(None, at_least=0, at_most=10**6)
    """Dollars per million tokens read; null: no cost is given."""
    price_out: float | None = ranged(None, at_least=0, at_most=10**6)
    """Dollars per million tokens written."""
    answering_per_question: int | None = ranged(1, at_least=1, at_most=10**6, note="null judges all responses")
    """Responses per question and temperature whose answering is judged; null: all."""
    reflection: str = chosen("keyword", "all")
    """keyword: only responses with a keyword are judged for self-reflection; all: every response."""
    longest: int = ranged(16000, at_least=2, at_most=10**8)
    """Longest response shown to the judge, in characters; of a longer one the middle is left out."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request to a server, such as {chat_template_kwargs: {enable_thinking: false}}."""
    guided: bool = False
    """Let vLLM's server accept answers alone that hold a label where it is read: small models keep to no format."""
    prompts: dict[str, JudgePromptConfig] = field(default_factory=dict)
    """The prompts "answering" and "reflection"."""


@dataclass
class AnalyzeConfig:
    """Root of ``conf/analyze.yaml``."""

    name: str = "analyze"
    """Folder under outputs/."""
    seed: int = ranged(0, at_least=0, at_most=2**63 - 1)
    """Governs the choice of questions, the samples and the bootstrap."""
    questions: int = ranged(500, at_least=1, at_most=10**9)
    """Questions, chosen at random by the seed."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Of each temperature; sampling.temperature itself is not used."""
    temperatures: list[float] = ranged([], at_least=0, at_most=100)
    """Temperatures that are compared."""
    pass_k: int = ranged(8, at_least=1, at_most=10**5)
    """k of the exploration figure, at most sampling.n."""
    chunk: int = ranged(128, at_least=1, at_most=10**6)
    """Questions that are sampled together and then written."""
    context: int | None = ranged(None, at_least=2, at_most=10**8)
    """Longest prompt + response of the engine in tokens; null: what the prompts need, model.context at most."""
    dry: bool = False
    """Two questions, 16 tokens, prompts cut to fit: a smoke test."""
    device: str = chosen("auto", "cpu", "gpu")
    """auto refuses a large model on a machine without a GPU; cpu insists."""
    bootstrap: int = ranged(2000, at_least=1, at_most=10**6)
    """Resamples of the questions behind the 95 % intervals."""
    excerpts: int = ranged(60, at_least=0, at_most=10**6)
    """Responses shown in excerpts.html."""
    model: ModelConfig = MISSING
    template: TemplateConfig = MISSING
    templates: dict[str, TemplateConfig] = field(default_factory=dict)
    """Templates to choose from: the one under which most responses answer becomes ``template``; {}: no choice."""
    screen_n: int = ranged(1, at_least=1, at_most=10**5)
    """Responses per question, temperature and template by which the choice is made."""
    second_n: int | None = ranged(None, at_least=2, at_most=10**5, note="null leaves the second stage out")
    """Responses of Fig. 15's second stage, for each question with a self-reflecting response in the first."""
    labelled: str | None = None
    """Nothing is drawn: the judge labels these responses and is compared. A JSONL file, or "packaged": 40 of ours."""
    data: DataConfig = MISSING
    reward: RewardConfig = MISSING
    rollout: RolloutConfig = MISSING
    server: ServerConfig = field(default_factory=ServerConfig)
    judge: JudgeConfig = MISSING
    resume: str | None = None
    """Folder of an interrupted analysis to continue."""
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
