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
class SourceConfig:
    """One source of documents; ``data.mix`` says how much of the text it makes."""

    kind: str = "text"
    """arithmetic, prose, talk: documents made from a seed; text: read from path."""
    path: str | None = None
    """Hub id, streamed; a local copy of a hub data set; or a .jsonl, .parquet or .txt file (.gz for .jsonl and .txt), a
    folder or a pattern of such."""
    subset: str | None = None
    """Configuration name of the hub data set."""
    split: str = "train"
    """Split of a hub data set; in a folder, files that are named as other splits are left out."""
    revision: str | None = None
    format: str = "text"
    """text: one field is the document; qa_text: question and answer are put together by ``template``."""
    text_key: str | None = None
    """Field of the text, dots reach into records; null: found by its name."""
    question_key: str | None = None
    """Field of the question for qa_text; null: found by its name."""
    answer_key: str | None = None
    """Field of the answer or worked solution for qa_text; null: found by its name, a solution before an answer."""
    template: str = "{question}\n{answer}"
    """How qa_text puts a question and its answer together."""
    box: bool = False
    """qa_text: end every answer in a box, made from what stands after #### or from the answer itself."""
    drop_bad: bool = False
    """Leave out records that make no document (a field is missing, empty or no text) instead of stopping at one."""
    separate: str = "paragraph"
    """Documents of a .txt file: paragraph (blank lines part them), line, or file."""
    shuffle_buffer: int = 1000
    """Documents that the next one is drawn from; 1: the order of the source."""
    heldout_path: str | None = None
    """Documents of the held-out loss; null: the first ones of path, which are then not trained on."""


@dataclass
class TextConfig:
    """The pretraining text: where documents come from and how they are mixed."""

    name: str = MISSING
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Sources by name."""
    mix: dict[str, float | None] = field(default_factory=dict)
    """Share of the tokens by source, in any unit; null leaves a source out."""
    pages: dict[str, float | None] = field(default_factory=dict)
    """Weight of each page form of arithmetic documents: question, none, qwen, speaker; null leaves a form out."""
    questions: dict[str, Any] = field(default_factory=dict)
    """Settings of the question generator (r1zero.data.arithmetic.Arithmetic)."""
    working: WorkingConfig = field(default_factory=WorkingConfig)
    row_tokens: int = 512
    """Tokens of a packed row; documents longer than this are cut into pieces."""
    heldout_documents: int = 512
    """Documents that the held-out loss is measured on, shared evenly by the sources."""


@dataclass
class InitConfig:
    """A new model instead of the weights at model.path, with a tokenizer trained on the text itself or taken over."""

    architecture: str = "qwen2"
    """qwen2 or llama."""
    tokenizer: str | None = None
    """Folder of the tokenizer to take over; null: train one, of ``vocab`` entries."""
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
    """Folder under outputs/ and name of the run in the loggers."""
    group: str = "${name}"
    """What runs that belong together share in the loggers."""
    step_metric: str = "progress/optimizer_step"
    """What the loggers plot figures over."""
    seed: int = 0
    """Governs the text, the new weights and nothing else: there is no dropout."""
    steps: int | None = 1000
    """Optimizer steps; never seconds, so that a run can be repeated. null: as many as ``epochs`` takes."""
    epochs: float | None = None
    """Passes over the only source, with steps=null: its tokens are counted before the first step."""
    step_tokens: int = 8192
    """Tokens per optimizer step over all devices, a multiple of data.row_tokens."""
    threads: int | None = None
    """Torch threads; fixed so that sums round alike on every machine. null: torch's choice."""
    eval_every: int = 100
    """Optimizer steps between held-out losses."""
    checkpoint_every: int = 0
    """Optimizer steps between checkpoints; 0: none but on an interruption."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    peak_tflops: float | None = None
    """Peak of a device in TFLOP/s, which the MFU is a share of; null: by the data sheet of a GPU, or measured."""
    dry: bool = False
    """Only check the settings and the first document of every source, and say what would run."""
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
