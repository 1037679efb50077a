"""How large vLLM's cache of keys and values is on a CPU, where it takes the host's memory at start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import AutoConfig

from r1zero.batch import Prompt
from r1zero.rollout.sync import torch_dtype

BLOCK = 32
"""Tokens per block of the cache. Only whole blocks are shared between the responses to one prompt, and the backend's
default of 128 is longer than most prompts of small tasks."""
LARGEST = 1.0
"""GiB that nothing gets more than unless ``rollout.kv_cache_gib`` says so."""


def response_tokens(context: int, max_tokens: int, group_size: int) -> int:
    """Most tokens that a response holds in the cache, with its share of a prompt that a group has in common.

    A prompt is at most as long as the context leaves; two blocks of a response are partly filled.
    """
    prompt = max(context - max_tokens, 0)
    return min(context, max_tokens + -(-prompt // group_size)) + 2 * BLOCK


def largest_request(sets: Iterable[Sequence[Prompt]], n: int, max_tokens: int, room: int | None) -> tuple[int, int]:
    """Responses to the largest of some sets of questions that are asked whole, and most tokens that each holds.

    Args:
        sets: prompts that an engine gets in one call each.
        n: responses to each.
        max_tokens: of a response.
        room: tokens that prompts of several turns fill; None: prompts stay as they are.
    """
    sets = list(sets)
    longest = max((len(prompt.ids) for prompts in sets for prompt in prompts), default=0)
    return n * max(map(len, sets), default=0), response_tokens(room or longest + max_tokens, max_tokens, n)


def cache_gib(
    model_path: str, dtype: str, tokens: int, *, revision: str | None = None, trust_remote_code: bool = False
) -> float:
    """GiB that keys and values of ``tokens`` tokens take, at most ``LARGEST``.

    That too where ``tokens`` is 0, or where the model's config does not say how many heads it has.
    """
    config = AutoConfig.from_pretrained(
        model_path, revision=revision, trust_remote_code=trust_remote_code
    ).get_text_config()
    heads, layers = getattr(config, "num_attention_heads", 0), getattr(config, "num_hidden_layers", 0)
    if not (tokens and heads and layers):
        return LARGEST
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    wide = 2 * layers * (getattr(config, "num_key_value_heads", None) or heads) * size * torch_dtype(dtype).itemsize
    return min(tokens * wide / 2**30, LARGEST)
