"""Builds the rollout engine that a config asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoTokenizer

from r1zero.errors import UserError
from r1zero.launch.gpu import check_quantization
from r1zero.rollout import ranks
from r1zero.rollout.engine import Engine
from r1zero.rollout.environments import find_environment
from r1zero.rollout.parts import InParts
from r1zero.rollout.thread import EngineThread
from r1zero.rollout.vllm.settings import vllm_settings
from r1zero.rollout_config import RolloutConfig


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
    responses: int = 0,
    evaluated: tuple[int, int] = (0, 0),
    on_hang: Callable[[str], None] | None = None,
) -> Engine:
    """Start the engine named by ``rollout.name``.

    Args:
        rollout: The rollout group; ``rollout.dtype`` overrides ``dtype`` unless it is auto.
        model_path: Hub id or folder with config, weights and tokenizer.
        dtype: The model's number format.
        context: Longest prompt + response in tokens.
        seed: Seed of the engine itself; draws are governed by the seed of each ``generate``.
        device: Where the learner is, "cpu" or "cuda:<index>": an engine of this process works there too.
        revision: Branch, tag or commit of a hub repository.
        trust_remote_code: Run code that comes with the model.
        responses: Responses of a rollout step that this rank samples; 0: not known.
        evaluated: Most responses that it samples at once otherwise, and most tokens that each holds in the cache.
        on_hang: Gets in one line why a process with a hung engine ends.

    Raises:
        UserError: An unknown engine, or one that can't start on this machine.
    """
    model: Any = {
        "dtype": rollout.format(dtype),
        "context": context,
        "seed": seed,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "responses": responses,
        "evaluated": evaluated,
    }
    check_quantization(rollout)
    if rollout.ranks_per_engine > 1 and not ranks.several():
        raise UserError(
            f"rollout.tensor_parallel={rollout.tensor_parallel} with rollout=vllm cuts the model over training ranks, "
            "and here is one process: use rollout=ray, or leave it out"
        )
    environment = find_environment(rollout)

    def start() -> Engine:
        if rollout.name == "ray":
            from r1zero.rollout.ray.build import build_ray_engine

            return build_ray_engine(rollout, vllm_settings(rollout, model_path, **model))
        if rollout.name == "vllm":
            from r1zero.rollout.vllm.engine import VLLMEngine

            model["responses"] *= rollout.tensor_parallel
            model["evaluated"] = (evaluated[0] * rollout.tensor_parallel, evaluated[1])
            return VLLMEngine(
                **vllm_settings(rollout, model_path, **model),
                sleep=rollout.sleep,
                sleep_level=rollout.sleep_level,
                card=int(device.partition(":")[2] or 0),
                timeout_s=rollout.timeout_s,
                on_hang=on_hang,
            )
        if rollout.name == "hf":
            from r1zero.rollout.hf.engine import HFEngine

            return HFEngine(
                model_path,
                dtype=rollout.format(dtype),
                context=context,
                revision=revision,
                trust_remote_code=trust_remote_code,
                device=device,
                max_num_seqs=rollout.max_num_seqs,
            )
        raise UserError(f"rollout.name={rollout.name} is unknown; choose vllm, ray, hf or auto")

    beside = rollout.async_steps and rollout.name != "ray"  # it samples while the learner works in this process
    engine = EngineThread(start, torch.device(device)) if beside else start()
    parts = rollout.parts or 1
    if parts > 1 and rollout.name != "ray":
        engine = InParts(engine, parts)
    try:
        if environment is not None:
            source: Any = {"revision": revision, "trust_remote_code": trust_remote_code}
            engine = environment(engine, AutoTokenizer.from_pretrained(model_path, **source), context)
        if rollout.ranks_per_engine > 1:
            from r1zero.rollout.vllm.joint import JointEngine

            engine = JointEngine(engine)  # outermost, so that whatever calls the engine calls it alike on every rank
        return engine
    except BaseException:
        engine.close()
        raise
