"""Typed schemas of ``conf/pretrain.yaml``. Imports nothing heavy, like :mod:`r1zero.config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.config import ModelConfig, OptimConfig
from r1zero.ranges import chosen, ranged


@dataclass
class WorkingConfig:
    """How the working of a sum is written and corrupted (see :mod:`r1zero.pretrain.text`)."""

    slip: float = ranged(0.06, at_least=0, at_most=1)
    """Chance per step of a wrong result that nothing shows."""
    slip_size: int = ranged(2, at_least=1, at_most=10**6)
    """Largest shift of a slip."""
    lost: float = ranged(0.11, at_least=0, at_most=1)
    """Chance per step of giving up, rambling and guessing."""
    guess_max: int = ranged(20, at_least=1, at_most=10**9)
    """A lost answer is a number from 0 to this."""
    hesitation_mean: float = ranged(5.0, at_least=1, at_most=10**4)
    """Mean number of hesitations in a ramble, geometric from 1."""
    hesitate_right: float = ranged(0.0, at_least=0, at_most=1)
    """Chance of a ramble after a right step, after which the working continues; the control base sets both."""
    hesitate_wrong: float = ranged(0.0, at_least=0, at_most=1)
    """Chance of a ramble after a slip."""
    clean_share: float = ranged(0.45, at_least=0, at_most=1)
    """First part of the steps whose text is nearly clean."""
    clean_scale: float = ranged(0.1, at_least=0, at_most=1)
    """Factor on slip, lost and hesitate_* in that part."""
    preamble_words: int = ranged(60, at_least=0, at_most=10**6)
    """Most made-up words before a change of speaker."""
    think_share: float = ranged(0.8, at_least=0, at_most=1)
    """Share of speaker pages whose answer opens with <think>."""
    tag_share: float = ranged(0.4, at_least=0, at_most=1)
    """Share of those that end in </think> <answer> ... </answer>; the others end in a box."""
    asked_sums: float = ranged(0.5, at_least=0, at_most=1)
    """Share of the questions of talk that look like a sum; what answers them has nothing to do with it."""


@dataclass
class SourceConfig:
    """One source of documents; ``data.mix`` says how much of the text it makes."""

    kind: str = chosen("text", "arithmetic", "prose", "talk")
    """arithmetic, prose, talk: documents made from a seed; text: read from path."""
    path: str | None = None
    """Hub id, streamed; a local copy of a hub data set; or a .jsonl, .parquet or .txt file (.gz for .jsonl and .txt), a
    folder or a pattern of such."""
    subset: str | None = None
    """Configuration name of the hub data set."""
    split: str = "train"
    """Split of a hub data set; in a folder, files that are named as other splits are left out."""
    revision: str | None = None
    format: str = chosen("text", "qa_text")
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
    questions: dict[str, Any] = field(default_factory=dict)
    """arithmetic, prose: what differs from data.questions in this source."""
    drop_bad: bool = False
    """Leave out records that make no document (a field is missing, empty or no text) instead of stopping at one."""
    separate: str = chosen("paragraph", "line", "file")
    """Documents of a .txt file: paragraph (blank lines part them), line, or file."""
    shuffle_buffer: int = ranged(1000, at_least=1, at_most=10**9)
    """Documents that the next one is drawn from; 1: the order of the source."""
    heldout_path: str | None = None
    """Documents of the held-out loss; null: the first ones of path, which are then not trained on."""


@dataclass
class TextConfig:
    """The pretraining text: where documents come from and how they are mixed."""

    name: str = MISSING
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Sources by name."""
    mix: dict[str, float | None] = ranged({}, above=0, at_most=10**9, note="null leaves a source out")
    """Share of the tokens by source, in any unit; null leaves a source out."""
    pages: dict[str, float | None] = ranged({}, above=0, at_most=10**9, note="null leaves a form out")
    """Weight of each page form of arithmetic documents: question, none, qwen, speaker; null leaves a form out."""
    questions: dict[str, Any] = field(default_factory=dict)
    """Settings of the question generator (r1zero.data.arithmetic.Arithmetic)."""
    working: WorkingConfig = field(default_factory=WorkingConfig)
    row_tokens: int = ranged(512, at_least=2, at_most=10**8)
    """Tokens of a packed row; documents longer than this are cut into pieces."""
    heldout_documents: int = ranged(512, at_least=1, at_most=10**9)
    """Documents that the held-out loss is measured on, shared evenly by the sources."""


@dataclass
class InitConfig:
    """A new model instead of the weights at model.path, with a tokenizer trained on the text itself or taken over."""

    architecture: str = chosen("qwen2", "llama")
    """qwen2 or llama."""
    tokenizer: str | None = None
    """Folder of the tokenizer to take over; null: train one, of ``vocab`` entries."""
    vocab: int = ranged(384, at_least=260, at_most=10**7, note="256 bytes and four special tokens")
    """Entries of the byte-level BPE, the special tokens among them."""
    tokenizer_documents: int = ranged(4000, at_least=1, at_most=10**9)
    """Documents that the tokenizer is trained on."""
    hidden: int = ranged(96, at_least=1, at_most=10**6)
    layers: int = ranged(3, at_least=1, at_most=10**4)
    heads: int = ranged(3, at_least=1, at_most=10**4)
    kv_heads: int = ranged(3, at_least=1, at_most=10**4)
    intermediate: int = ranged(256, at_least=1, at_most=10**7)


@dataclass
class PretrainConfig:
    """Root of ``conf/pretrain.yaml``."""

    name: str = "pretrain"
    """Folder under outputs/ and name of the run in the loggers."""
    group: str = "${name}"
    """What runs that belong together share in the loggers."""
    step_metric: str = "progress/optimizer_step"
    """What the loggers plot figures over."""
    seed: int = ranged(0, at_least=0, at_most=2**63 - 1)
    """Governs the text, the new weights and nothing else: there is no dropout."""
    steps: int | None = ranged(1000, at_least=1, at_most=10**9)
    """Optimizer steps; never seconds, so that a run can be repeated. null: as many as ``epochs`` takes."""
    epochs: float | None = ranged(None, above=0, at_most=10**6)
    """Passes over the only source, with steps=null: its tokens are counted before the first step."""
    step_tokens: int = ranged(8192, at_least=1, at_most=10**10)
    """Tokens per optimizer step over all devices, a multiple of data.row_tokens."""
    threads: int | None = ranged(None, at_least=1, at_most=4096)
    """Torch threads; fixed so that sums round alike on every machine. null: torch's choice."""
    eval_every: int = ranged(100, at_least=1, at_most=10**9)
    """Optimizer steps between held-out losses."""
    checkpoint_every: int = ranged(0, at_least=0, at_most=10**9)
    """Optimizer steps between checkpoints; 0: none but on an interruption."""
    keep: int = ranged(2, at_least=1, at_most=10**6)
    """Newest checkpoints that are kept."""
    peak_tflops: float | None = ranged(None, above=0, at_most=10**6)
    """Peak of a device in TFLOP/s, which the MFU is a share of; null: by the data sheet of a GPU, or measured."""
    resume: str | None = None
    """Run folder to continue, from its newest checkpoint."""
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
