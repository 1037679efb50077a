"""What runs inside vLLM's workers, in this process or, with tensor parallelism, in theirs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from r1zero.errors import SyncError


def seed_worker(worker: Any, seed: int) -> None:
    """Let a worker process draw from this seed: with tensor parallelism the sampler's state is not ours."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)


def refresh_tied_head(model: torch.nn.Module) -> None:
    """Make a tied output head follow its embedding after a reload (trap 40); runs in the worker.

    A reload loads each module by the tensors that carry its name. A tied head has none, so it is put back
    as it was: on the CPU backend that is a packed copy of the *first* weights. The head is tied again and
    packed again. On GPUs the head shares the embedding's storage; where it does not, it is copied.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    config = getattr(model, "config", None)
    text_config = config.get_text_config() if config is not None else None
    if not getattr(text_config, "tie_word_embeddings", False):
        return
    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    embeddings = [
        module
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    ]
    if not heads:
        return  # the embedding module itself serves as the head
    if len(heads) != 1 or len(embeddings) != 1:
        counted = f"{len(heads)} heads and {len(embeddings)} embeddings"
        raise SyncError(f"a tied model with {counted}: the sampler's head can't be refreshed")
    head: Any = heads[0]
    embedding: Any = embeddings[0]
    if embedding.weight.device.type == "cpu":
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)
    elif head.weight.data_ptr() != embedding.weight.data_ptr():
        head.weight.data.copy_(embedding.weight.data)
