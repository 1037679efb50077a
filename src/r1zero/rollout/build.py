"""Builds the rollout engine that a config asks for."""

from __future__ import annotations

from r1zero.config import RolloutConfig
from r1zero.errors import UserError
from r1zero.rollout.engine import Engine


def build_engine(
    rollout: RolloutConfig,
    model_path: str,
    *,
    dtype: str,
    context: int,
    seed: int = 0,
    device: str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Engine:
    """Start the engine named by ``rollout.name``.

    Args:
        rollout: The rollout group; ``rollout.dtype`` overrides ``dtype``.
        model_path: Hub id or folder with config, weights and tokenizer.
        dtype: The model's number format.
        context: Longest prompt + response in tokens.
        seed: Seed of the engine itself; draws are governed by the seed of each ``generate``.
        device: Where the hf engine keeps its model; vLLM chooses by itself.
        revision: Branch, tag or commit of a hub repository.
        trust_remote_code: Run code that comes with the model.

    Raises:
        UserError: An unknown engine, or one that can't start on this machine.
    """
    dtype = rollout.dtype or dtype
    if rollout.name == "vllm":
        from r1zero.rollout.vllm_engine import VLLMEngine

        return VLLMEngine(
            model_path,
            dtype=dtype,
            context=context,
            seed=seed,
            revision=revision,
            trust_remote_code=trust_remote_code,
            gpu_memory=rollout.gpu_memory,
            kv_cache_gib=rollout.kv_cache_gib,
            enforce_eager=rollout.enforce_eager,
            sleep=rollout.sleep,
            max_num_seqs=rollout.max_num_seqs,
        )
    if rollout.name == "hf":
        from r1zero.rollout.hf_engine import HFEngine

        return HFEngine(
            model_path,
            dtype=dtype,
            context=context,
            revision=revision,
            trust_remote_code=trust_remote_code,
            device=device,
            max_num_seqs=rollout.max_num_seqs,
        )
    raise UserError(f"rollout.name={rollout.name} is unknown; choose vllm or hf")
