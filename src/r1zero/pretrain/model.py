"""New small models, and the Hugging Face folder that every other part of the project loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from r1zero.errors import UserError
from r1zero.launch.files import whole_folder
from r1zero.learn.policy import save_model
from r1zero.pretrain.config import InitConfig
from r1zero.pretrain.text import IM_END

ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def check_init(init: InitConfig) -> None:
    """Refuse sizes that make no model, before a tokenizer is trained. Raises ``UserError``."""
    if init.hidden % init.heads or init.heads % init.kv_heads:
        raise UserError(
            f"init: hidden={init.hidden} must be a multiple of heads={init.heads}, "
            f"and heads of kv_heads={init.kv_heads}"
        )


def new_model(init: InitConfig, tokenizer: Any, context: int, seed: int) -> Any:
    """Build a causal LM with tied embeddings and weights drawn from ``seed``, in float32."""
    check_init(init)
    config_class, model_class = ARCHITECTURES[init.architecture]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=init.hidden,
        num_hidden_layers=init.layers,
        num_attention_heads=init.heads,
        num_key_value_heads=init.kv_heads,
        intermediate_size=init.intermediate,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config)


def export(model: Any, weights: dict[str, torch.Tensor], tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write ``weights``, configuration, tokenizer and generation_config to ``folder``, whole or not at all.

    ``weights`` are whole and in ``dtype``, under the model's own names. The generation config names every token that
    ends a response: EOS, what the model named before, and the chat marker where there is one.
    """
    named = getattr(model.generation_config, "eos_token_id", None)
    ends = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [] if named is None else [named])]
    if IM_END in tokenizer.get_vocab():
        ends.append(tokenizer.convert_tokens_to_ids(IM_END))
    model.generation_config = GenerationConfig(
        eos_token_id=list(dict.fromkeys(ends)), pad_token_id=tokenizer.pad_token_id
    )
    with whole_folder(folder) as aside:
        save_model(model, weights, tokenizer, aside, dtype)
