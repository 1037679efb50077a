"""The settings of a vLLM engine, in this process or in a sampler's: one list for both."""

from __future__ import annotations

from typing import Any

from r1zero.rollout.vllm.cache import response_tokens
from r1zero.rollout_config import RolloutConfig


def vllm_settings(
    rollout: RolloutConfig,
    model_path: str,
    *,
    dtype: str,
    context: int,
    seed: int,
    revision: str | None,
    trust_remote_code: bool,
    responses: int = 0,
    evaluated: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """Arguments of ``VLLMEngine`` that follow from the config and the model, wherever it runs; plain values."""
    return {
        "model_path": model_path,
        "dtype": dtype,
        "context": context,
        "seed": seed,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "gpu_memory": rollout.gpu_memory,
        "kv_cache_gib": rollout.kv_cache_gib,
        "enforce_eager": rollout.enforce_eager,
        "batch_invariant": rollout.batch_invariant,
        "quantization": rollout.quantization,
        "tensor_parallel": rollout.tensor_parallel,
        "max_num_seqs": rollout.max_num_seqs,
        "responses": responses,
        "response_tokens": response_tokens(context, rollout.max_tokens, rollout.group_size),
        "evaluated": evaluated,
    }
