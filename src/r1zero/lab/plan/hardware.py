"""Cards and model shapes that the calculator knows. Sizes in bytes, rates per second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r1zero.errors import UserError
from r1zero.launch.files import read_json
from r1zero.launch.gpu import Card

SUSTAINED = 0.4
"""Share of a card's dense bfloat16 peak that training sustains; an assumption, about the best seen in practice."""


@dataclass(frozen=True)
class GPU:
    """A card by its data sheet.

    Attributes:
        name: as in ``gpu=<name>``.
        memory: bytes.
        bandwidth: of its memory.
        peak: dense bfloat16 operations.
        link: to the other cards of the machine, one direction.
        host: to the host's memory, one direction, as measured copies reach.
        capability: compute capability.
    """

    name: str
    memory: float
    bandwidth: float
    peak: float
    link: float
    host: float
    capability: tuple[int, int]

    @property
    def card(self) -> Card:
        """As settings are checked for it."""
        return Card(self.name, self.capability)

    @property
    def sustained(self) -> float:
        """Operations that training reaches."""
        return SUSTAINED * self.peak


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("b200", 180e9, 8.0e12, 2250e12, 900e9, 55e9, (10, 0)),
        GPU("h200", 141e9, 4.8e12, 989e12, 450e9, 55e9, (9, 0)),
        GPU("h100", 80e9, 3.35e12, 989e12, 450e9, 55e9, (9, 0)),
        GPU("a100-80", 80e9, 2.04e12, 312e12, 300e9, 25e9, (8, 0)),
        GPU("a100-40", 40e9, 1.56e12, 312e12, 300e9, 25e9, (8, 0)),
        GPU("l40s", 48e9, 0.86e12, 362e12, 25e9, 25e9, (8, 9)),
        GPU("rtx4090", 24e9, 1.01e12, 165e12, 25e9, 25e9, (8, 9)),
    )
}


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama or Qwen2 family.

    Attributes:
        layers: decoder layers.
        hidden: size of the residual stream.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: size of a head.
        intermediate: inner size of the gated MLP.
        vocab: rows of the embedding.
        tied: whether the head is the embedding.
        bias: whether q, k and v have one (Qwen2).
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    bias: bool

    @property
    def embedding(self) -> int:
        """Parameters of the embedding matrix."""
        return self.vocab * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * q + 2 * self.hidden * kv + (q + 2 * kv if self.bias else 0)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def params(self) -> int:
        """All parameters."""
        return self.embedding * (1 if self.tied else 2) + self.layers * self.layer + self.hidden

    @property
    def kv_bytes(self) -> int:
        """Bytes of key-value cache per token in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    def adapters(self, rank: int, targets: list[str]) -> int:
        """Parameters of LoRA adapters: rank * (inputs + outputs) of each target.

        Raises:
            UserError: a target is not one of the seven matrices of these families.
        """
        q, kv, h, m = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.hidden, self.intermediate
        sides = {
            "q_proj": h + q, "k_proj": h + kv, "v_proj": h + kv, "o_proj": q + h,
            "gate_proj": h + m, "up_proj": h + m, "down_proj": m + h,
        }  # fmt: skip
        unknown = [target for target in targets if target not in sides]
        if unknown:
            raise UserError(f"model.lora.targets: the plan knows {', '.join(sides)}, not {unknown[0]}")
        return rank * self.layers * sum(sides[target] for target in targets)


QWEN_0_5B = Shape(24, 896, 14, 2, 64, 4864, 151936, tied=True, bias=True)
QWEN_1_5B = Shape(28, 1536, 12, 2, 128, 8960, 151936, tied=True, bias=True)
QWEN_1_5B_UNTIED = Shape(28, 1536, 12, 2, 128, 8960, 151936, tied=False, bias=True)
QWEN_3B = Shape(36, 2048, 16, 2, 128, 11008, 151936, tied=True, bias=True)
QWEN_7B = Shape(28, 3584, 28, 4, 128, 18944, 152064, tied=False, bias=True)
QWEN_14B = Shape(48, 5120, 40, 8, 128, 13824, 152064, tied=False, bias=True)
QWEN_32B = Shape(64, 5120, 40, 8, 128, 27648, 152064, tied=False, bias=True)
LLAMA_3B = Shape(28, 3072, 24, 8, 128, 8192, 128256, tied=True, bias=False)
LLAMA_8B = Shape(32, 4096, 32, 8, 128, 14336, 128256, tied=False, bias=False)
DEEPSEEK_7B = Shape(30, 4096, 32, 32, 128, 11008, 102400, tied=False, bias=False)
SMOLLM_135M = Shape(30, 576, 9, 3, 64, 1536, 49152, tied=True, bias=False)

SHAPES = {
    "Qwen/Qwen2.5-Math-1.5B": QWEN_1_5B,
    "Qwen/Qwen2.5-1.5B": QWEN_1_5B,
    "Qwen/Qwen2.5-Math-1.5B-Instruct": QWEN_1_5B,
    "sail/Qwen2.5-Math-1.5B-Oat-Zero": QWEN_1_5B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": QWEN_1_5B_UNTIED,
    "Qwen/Qwen2.5-Math-7B": QWEN_7B,
    "Qwen/Qwen2.5-7B": QWEN_7B,
    "Qwen/Qwen2.5-Math-7B-Instruct": QWEN_7B,
    "sail/Qwen2.5-Math-7B-Oat-Zero": QWEN_7B,
    "Open-Reasoner-Zero/Open-Reasoner-Zero-7B": QWEN_7B,
    "PRIME-RL/Eurus-2-7B-PRIME-Zero": QWEN_7B,
    "hkust-nlp/Qwen-2.5-Math-7B-SimpleRL-Zero": QWEN_7B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": QWEN_7B,
    "meta-llama/Llama-3.2-3B": LLAMA_3B,
    "meta-llama/Llama-3.2-3B-Instruct": LLAMA_3B,
    "HuggingFaceTB/FineMath-Llama-3B": LLAMA_3B,
    "lkevinzc/Llama-3.2-3B-NuminaQA": LLAMA_3B,
    "sail/Llama-3.2-3B-Oat-Zero": LLAMA_3B,
    "meta-llama/Llama-3.1-8B": LLAMA_8B,
    "deepseek-ai/deepseek-math-7b-base": DEEPSEEK_7B,
    "HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM_135M,
}
"""Shapes of the hub models of ``conf/model``, so that the plan needs no network; a folder brings its own."""


def shape_of(path: str) -> Shape:
    """The shape of a model: read from a folder's ``config.json``, or known by its hub id.

    Raises:
        UserError: neither, or the config is not of these families.
    """
    file = Path(path).expanduser() / "config.json"
    if not file.is_file():
        if path not in SHAPES:
            raise UserError(f"model.path={path}: the plan needs a folder with config.json or a hub model of conf/model")
        return SHAPES[path]
    try:
        config = read_json(file)
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            intermediate=config["intermediate_size"],
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            bias=config.get("model_type") == "qwen2" or bool(config.get("attention_bias")),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} describes no model that the plan knows ({type(error).__name__}: {error})") from error


def gpu_named(name: str) -> GPU:
    """A card of the table. Raises ``UserError`` for another name."""
    if name not in GPUS:
        raise UserError(f"gpu={name} is unknown; choose one of {', '.join(GPUS)}")
    return GPUS[name]
