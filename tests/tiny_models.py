"""Random tiny models with a byte-level BPE tokenizer, in the layout of the hub: real files for real engines."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BOS = "<|begin_of_text|>"
TEXT = [
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it.",
    "What is 12 + 30 * 4? First 30 * 4 = 120. Then 12 + 120 = 132. The answer is \\boxed{132}.",
    "<think> 7 - 5 = 2 </think> <answer> 2 </answer>",
    "Question: Tom has 3 apples and buys 14 more. How many apples has Tom?\nAnswer: 3 + 14 = 17\n",
]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@lru_cache
def tiny_tokenizer(vocab: int = 320, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``vocab`` entries; with ``bos`` it puts one BOS in front of plain text, as Llama's does."""
    special = [*SPECIAL, BOS] if bos else SPECIAL
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token=BOS if bos else None,
        additional_special_tokens=special[1:3],
    )
    fast.chat_template = CHAT
    return fast


def make_tiny(
    folder: Path | str,
    arch: str = "qwen2",
    tied: bool = True,
    vocab: int = 320,
    padded_vocab: int | None = None,
    layers: int = 2,
    hidden: int = 64,
    context: int = 512,
    scale: float = 0.08,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a random model and its tokenizer into ``folder`` and return the folder.

    ``scale`` is the standard deviation of the weights: large enough for a distribution that is far from
    uniform. ``padded_vocab`` gives the model more rows than the tokenizer has entries (trap 28).
    """
    folder = Path(folder)
    tokenizer = tiny_tokenizer(vocab, bos=arch == "llama")
    config_class = {"qwen2": Qwen2Config, "llama": LlamaConfig}[arch]
    config = config_class(
        vocab_size=padded_vocab or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=scale,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def perturb(model: torch.nn.Module, seed: int, scale: float = 0.05) -> torch.nn.Module:
    """Add noise to every parameter in place, as an update would; returns the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.add_(noise.to(parameter.dtype))
    return model
