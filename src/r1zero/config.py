"""Typed schemas of the project's own config groups. Imports nothing heavy: ``train.py --help`` reads it.

Each group file in ``conf/`` starts with ``defaults: [_schema_]``, so an unknown key or a wrong type
fails at composition, naming the key. Sizes are given once; what follows from them is derived here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, ListConfig, OmegaConf

from r1zero.algo_config import AlgoConfig
from r1zero.ranges import chosen, ranged
from r1zero.rollout_config import RolloutConfig

ASSETS = Path(__file__).parent / "data" / "assets"
"""What comes with the package; ``${asset:name}`` in a config is a path below it."""


class Gold(str, Enum):
    """Who decides whether a response is right: the verifier by gold answers, or reward functions alone."""

    verify = "verify"
    none = "none"


class BadGold(str, Enum):
    """What to do with a question whose gold answer can't be graded against itself."""

    error = "error"
    drop = "drop"


@dataclass
class LoRAConfig:
    """Adapters beside frozen weights; the frozen ones are kept in model.dtype. No dropout (semantics 12)."""

    rank: int = ranged(0, at_least=0, at_most=65536)
    """Inner size of the adapters, e.g. 16; 0: all weights are trained."""
    alpha: int = ranged(32, at_least=1, at_most=10**6)
    """Adapters are scaled by alpha / rank."""
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Names of the linear layers that get adapters."""
    export: str = chosen("merged", "adapter")
    """What policy/ holds: merged, a model of its own; or adapter, peft's files for the base model."""


@dataclass
class ModelConfig:
    """The policy: a Hugging Face hub id or a folder in the hub's layout."""

    name: str = MISSING
    path: str = MISSING
    """Hub id, or a folder with config.json, weights and tokenizer."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    context: int | None = ranged(None, at_least=2, at_most=10**8)
    """Longest prompt + response in tokens; null: read from the config.json of a local folder."""
    served: bool = False
    """The model runs behind a server, at server.url; for evaluation and analysis only."""
    params: float = ranged(0.0, at_least=0, at_most=10**5)
    """Parameters in billions; used to say early that a machine is too small."""
    dtype: str = chosen("auto", "bfloat16", "float32")
    """Number format of compute and sampler; auto: bfloat16 where the processor has it, else float32; a resumed run
    keeps its own. Trained parameters are float32 always."""
    reference_dtype: str = chosen("auto", "bfloat16", "float32")
    """Number format of the weights of the KL reference; auto: model.dtype on a GPU, float32 on a CPU."""
    attention: str = chosen("sdpa", "eager", "flash_attention_2")
    """Attention of the learner: sdpa, eager or flash_attention_2."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a quarter more time."""
    activation_offload: bool = False
    """Keep what gradient checkpointing keeps, the inputs of layers, in the host's memory: for very long responses."""
    compile: bool = False
    """torch.compile the learner's model: starts half a minute or more later, then about a third faster."""
    compile_head: bool | None = None
    """torch.compile the work on logits between the head's products, seconds at the start; null: on a GPU alone."""
    trust_remote_code: bool = False
    """Run code that comes with the model folder. Leave it off unless you have read that code."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Train adapters instead of all weights: model.lora.rank=16."""


@dataclass
class TemplateConfig:
    """How a question becomes a prompt, when a response ends, where its answer stands."""

    name: str = MISSING
    text: str = MISSING
    """Prompt text with {question} exactly once; the user message when chat is true."""
    stop: list[str] = field(default_factory=list)
    """Strings that end a response."""
    keep_stop: bool = True
    """Leave the stop string in the response; the answer_tag extractor needs it."""
    stop_tokens: list[str] = field(default_factory=list)
    """Special tokens that end a response besides the model's own EOS ids."""
    extractor: str = "boxed"
    """boxed: the last balanced \\boxed{}; answer_tag: the last <answer>...</answer>; or the import path of a function
    (text of a response) -> answer or None."""
    chat: bool = False
    """Put the text through the tokenizer's own chat template."""
    system: str | None = None
    """System message of the chat template; null: the model's own default, '': an empty one."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template, e.g. {enable_thinking: false}."""
    date: str = "2024-07-26"
    """The date that a chat template gets as today's, so prompts don't change overnight."""


@dataclass
class SourceConfig:
    """One source of a mixture of question sets; its settings are those of a set."""

    path: str | None = None
    """Hub id, file or folder."""
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    question_key: str | None = None
    answer_key: str | None = None
    where: dict[str, Any] = field(default_factory=dict)
    """Keep only rows that pass, before any are drawn; see data.where."""
    count: int | None = ranged(None, at_least=1, at_most=10**9)
    """Questions that are drawn from it; null: all of them, or as many as weight says."""
    weight: float | None = ranged(None, above=0, at_most=1)
    """Share of data.rows; the weights of all sources add up to 1."""


@dataclass
class DataConfig:
    """One question set: a hub id, a local file or folder, a generator, or a mixture of sets."""

    name: str = MISSING
    path: str | None = None
    """Hub id; or .jsonl, .json, .csv, .parquet file; or a load_from_disk folder."""
    subset: str | None = None
    """Configuration name of the hub data set."""
    split: str = "train"
    """Split of a hub data set or of a saved DatasetDict."""
    revision: str | None = None
    question_key: str | None = None
    """Field of the question, dots reach into nested fields; null: found by name."""
    answer_key: str | None = None
    """Field of the gold answer; null: found by name."""
    gold: Gold = Gold.verify
    """none: there are no gold answers; reward.functions alone decide, the verifier does not count."""
    keep: list[str] = field(default_factory=list)
    """Columns that reward functions see in meta, e.g. [tests, starter_code]; dots reach into nested fields."""
    where: dict[str, Any] = field(default_factory=dict)
    """Keep only rows whose field has one of these values, {level: [3, 4, 5]}, or lies within bounds, {year: "<2023"} or
    {year: {at_least: 1990, below: 2023}} (at_least, above, at_most, below)."""
    drop: str | None = None
    """File of row numbers to leave out, one a line; grade.py --attack writes one."""
    limit: int | None = ranged(None, at_least=1, at_most=10**9)
    """Use only the first rows."""
    rows: int | None = ranged(None, at_least=1, at_most=10**9)
    """Rows that the set is known to have; another count is an error."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """A mixture: so many questions of each of these sets, drawn by params.seed (0), whatever the run's seed."""
    generator: str | None = None
    """arithmetic or programs: make the questions instead of reading them."""
    params: dict[str, Any] = field(default_factory=dict)
    """Settings of the generator."""
    max_prompt_tokens: int = ranged(1024, at_least=1, at_most=10**8)
    """Longer prompts are dropped and counted."""
    bad_gold: BadGold = BadGold.error
    """A gold answer that can't be graded: stop and name the row, or drop it and count it."""
    sampler: str = "uniform"
    """Which questions are trained on: uniform, drop_solved_and_hopeless, curriculum, or an import path."""
    sampler_params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the sampling rule."""


@dataclass
class RewardFunctionConfig:
    """A plug-in reward: a function (question, response, gold, ...) -> float named by its import path."""

    path: str = MISSING
    """Import path, package.module.function."""
    weight: float = ranged(1.0, at_least=-(10**6), at_most=10**6)
    """Weight in the summed reward."""
    params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments given at every call."""
    timeout: float | None = ranged(None, above=0, at_most=3600)
    """Seconds a call may take before its worker is killed and it counts 0; null: reward.timeout."""


@dataclass
class RewardConfig:
    """The verifier and its isolation."""

    name: str = MISSING
    timeout: float = ranged(3.0, above=0, at_most=3600)
    """Seconds an answer may take before its worker is killed and the answer counts as wrong."""
    workers: int | None = ranged(None, at_least=1, at_most=1024)
    """Worker processes; null: cores - 1, from 1 to 8."""
    pool: str = chosen("local", "ray")
    """Where they run: on the trainer's machine, or ``ray``: as many on each of ``machines`` of a Ray cluster."""
    address: str = "auto"
    """The cluster of pool=ray: auto, the one that runs on this machine, or host:port."""
    machines: int = ranged(1, at_least=1, at_most=4096)
    """Machines of pool=ray that grade."""
    strict_tags: bool = False
    """answer_tag demands exactly "</think> <answer>", as the paper's code does."""
    pay_copied: bool = False
    """Whether an expression copied from the question is paid for its value, such as 3+4 for 7."""
    memory_gib: float | None = ranged(4.0, above=0, at_most=10**5)
    """GiB of address space of a worker; null: no limit."""
    warn_failures: float = ranged(0.01, at_least=0, at_most=1)
    """Share of timeouts and crashes in a step above which a warning is given."""
    stop_failures: float = ranged(0.20, at_least=0, at_most=1)
    """Share of timeouts and crashes in a step above which training stops."""
    weight: float = ranged(1.0, at_least=-(10**6), at_most=10**6)
    """Weight of the verifier's 1.0 or 0.0 in the summed reward."""
    functions: dict[str, RewardFunctionConfig] = field(default_factory=dict)
    """Other rewards by name; each is run in a worker and added with its weight."""


@dataclass
class OptimConfig:
    """AdamW and what surrounds it."""

    name: str = MISSING
    lr: float = ranged(1e-6, at_least=0, at_most=1)
    betas: tuple[float, float] = ranged((0.9, 0.95), at_least=0, below=1)
    eps: float = ranged(1e-8, at_least=0, at_most=1)
    weight_decay: float = ranged(0.0, at_least=0, at_most=100)
    max_grad_norm: float = ranged(1.0, at_least=0, at_most=10**9)
    """Gradient-norm clip over all parameters; 0 turns it off."""
    schedule: str = chosen("constant", "linear", "cosine")
    """constant, linear or cosine decay to zero."""
    warmup_steps: int = ranged(0, at_least=0, at_most=10**9)
    """Optimizer steps of linear warm-up."""
    micro_batch_tokens: int = ranged(16384, at_least=1, at_most=10**8)
    """Most prompt + response tokens (padding counted) in one forward pass; context_parallel times as many with it."""
    context_parallel: int = ranged(1, at_least=1, at_most=1024)
    """Ranks that make each pass together, every one a share of its tokens: for responses too long for one device."""
    state_bits: int = chosen(32, 8)
    """8: AdamW's two moments in blocks of 8 bits (bitsandbytes), 2 bytes a parameter in place of 8."""
    paged: bool = False
    """8-bit moments that move to the host's memory when a GPU's is short."""
    offload_states: bool = False
    """AdamW's moments, and gradients that DDP keeps, leave the GPU while the engine samples: two copies of 8 bytes a
    parameter each rollout step. On a CPU nothing changes."""


@dataclass
class EvalConfig:
    """Evaluation during training; the same engine, templates and grader as the rollouts."""

    every: int = ranged(16, at_least=0, at_most=10**9)
    """Rollout steps between evaluations; 0: only before and after training."""
    at_start: bool = True
    """Evaluate before the first update."""
    n: int = ranged(1, at_least=1, at_most=10**5)
    """Responses per question."""
    temperature: float = ranged(0.0, at_least=0, at_most=100, note="0 is greedy")
    """0 is greedy."""
    top_p: float = ranged(1.0, above=0, at_most=1)
    max_tokens: int | None = ranged(None, at_least=1, at_most=10**8)
    """Response limit; null: rollout.max_tokens."""
    limit: int | None = ranged(None, at_least=1, at_most=10**9)
    """Use only the first questions of each benchmark."""


@dataclass
class CheckpointConfig:
    """What is kept to resume from."""

    every: int = ranged(16, at_least=0, at_most=10**9)
    """Rollout steps between checkpoints; 0: only at the end and on an interruption."""
    keep: int = ranged(2, at_least=1, at_most=10**6)
    """Newest checkpoints that are kept."""


@dataclass
class HubConfig:
    """Where a finished run's policy is pushed to."""

    push: str | None = None
    """Repository on the Hugging Face hub, user/name; null: none."""
    private: bool = True
    """Whether a repository that is made for it is private."""


@dataclass
class TrainConfig:
    """Root of ``conf/train.yaml``. Groups below it have schemas of their own."""

    name: str = "run"
    """Folder under outputs/ and name of the run in the loggers."""
    group: str = "${name}"
    """What the runs of one sweep share in the loggers; a sweep sets it."""
    axes: dict[str, Any] = field(default_factory=dict)
    """Values that the sweeps of conf/sweep run over, by axis; an experiment says which."""
    seed: int = ranged(0, at_least=0, at_most=2**63 - 1)
    """Governs question order, minibatch shuffles and the sampler."""
    steps: int = ranged(1000, at_least=1, at_most=10**9)
    """Rollout steps."""
    resume: str | None = None
    """Run folder to continue."""
    objective: str | None = None
    """Column of metrics.csv whose last value a search (hydra/sweeper=tune) seeks; null: the last evaluation's average
    accuracy, and the mean reward of the last five steps where nothing is evaluated."""
    closing: str | None = None
    """Printed when the run has finished; an experiment may say what to try next."""
    algo: AlgoConfig = MISSING
    model: ModelConfig = MISSING
    template: TemplateConfig = MISSING
    data: DataConfig = MISSING
    benchmarks: dict[str, DataConfig] = field(default_factory=dict)
    reward: RewardConfig = MISSING
    rollout: RolloutConfig = MISSING
    optim: OptimConfig = MISSING
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)


GROUPS: dict[str, type] = {
    "algo": AlgoConfig,
    "model": ModelConfig,
    "template": TemplateConfig,
    "data": DataConfig,
    "reward": RewardConfig,
    "rollout": RolloutConfig,
    "optim": OptimConfig,
}


def env_list(name: str, default: Any) -> ListConfig:
    """``${env_list:NAME,[a,b]}``: the parts between the commas of an environment variable, or the default."""
    parts = [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]
    return ListConfig(parts or list(default))  # a plain list can't be put into a resolved config


def register() -> None:
    """Put the schemas into Hydra's store: one per group as ``_schema_``, and the root as ``train_schema``."""
    OmegaConf.register_new_resolver("env_list", env_list, replace=True)
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)
    store = ConfigStore.instance()
    for group, node in GROUPS.items():
        store.store(group=group, name="_schema_", node=node)
    store.store(name="train_schema", node=TrainConfig)
