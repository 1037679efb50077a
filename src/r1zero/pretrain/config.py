"""Typed schemas of ``conf/pretrain.yaml``. Imports nothing heavy, like :mod:`r1zero.config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.config import ModelConfig, OptimConfig


@dataclass
class WorkingConfig:
    """How the working of a sum is written and spoilt (see :mod:`r1zero.pretrain.text`)."""

    slip: float = 0.06
    """Chance per step of a wrong result that nothing shows."""
    slip_size: int = 2
    """Largest shift of a slip."""
    lost: float = 0.11
    """Chance per step of giving up, rambling and guessing."""
    guess_max: int = 20
    """A lost answer is a number from 0 to this."""
    hesitation_mean: float = 5.0
    """Mean number of hesitations in a ramble, geometric from 1."""
    hesitate_right: float = 0.0
    """Chance of a ramble after a right step, the working then going on; the control base sets both."""
    hesitate_wrong: float = 0.0
    """Chance of a ramble after a slip."""
    clean_share: float = 0.45
    """First part of the steps whose text is nearly clean."""
    clean_scale: float = 0.1
    """Factor on slip, lost and hesitate_* in that part."""
    preamble_words: int = 60
    """Most made-up words before a change of speaker."""
    think_share: float = 0.8
    """Share of speaker pages whose answer opens with <think>."""
    tag_share: float = 0.4
    """Share of those that end in </think> <answer> ... </answer>; the others end in a box."""


@dataclass
class TextConfig:
    """The pretraining text: where documents come from and how they are mixed."""

    name: str = MISSING
    source: str = MISSING
    """arithmetic: documents made from a seed."""
    mix: dict[str, float] = field(default_factory=dict)
    """Weight of each part; arithmetic: the page forms question, none, qwen, speaker."""
    questions: dict[str, Any] = field(default_factory=dict)
    """Settings of the question generator (r1zero.data.arithmetic.Arithmetic)."""
    working: WorkingConfig = field(default_factory=WorkingConfig)
    row_tokens: int = 512
    """Tokens of a packed row; documents longer than this are cut into pieces."""
    heldout_documents: int = 512
    """Documents of the held-out split that the held-out loss is measured on."""


@dataclass
class InitConfig:
    """A new model instead of the weights at model.path, with a tokenizer trained on the text itself."""

    architecture: str = "qwen2"
    """qwen2 or llama."""
    vocab: int = 384
    """Entries of the byte-level BPE, the special tokens among them."""
    tokenizer_documents: int = 4000
    """Documents that the tokenizer is trained on."""
    hidden: int = 96
    layers: int = 3
    heads: int = 3
    kv_heads: int = 3
    intermediate: int = 256


@dataclass
class PretrainConfig:
    """Root of ``conf/pretrain.yaml``."""

    name: str = "pretrain"
    """Folder under outputs/."""
    seed: int = 0
    """Governs the text, the new weights and nothing else: there is no dropout."""
    steps: int = 1000
    """Optimizer steps; never seconds, so that a run can be repeated."""
    step_tokens: int = 8192
    """Tokens per optimizer step over all devices, a multiple of data.row_tokens."""
    threads: int | None = None
    """Torch threads; fixed so that sums round alike on every machine. null: torch's choice."""
    eval_every: int = 100
    """Optimizer steps between held-out losses."""
    checkpoint_every: int = 0
    """Optimizer steps between checkpoints; 0: none. The newest is kept."""
    resume: str | None = None
    """Run folder to go on with, from its newest checkpoint."""
    init: InitConfig | None = None
    """null: go on from the weights at model.path."""
    model: ModelConfig = MISSING
    data: TextConfig = MISSING
    optim: OptimConfig = MISSING
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schemas into Hydra's store, beside those of :func:`r1zero.config.register`."""
    store = ConfigStore.instance()
    store.store(group="data", name="_text_schema_", node=TextConfig)
    store.store(name="pretrain_schema", node=PretrainConfig)
