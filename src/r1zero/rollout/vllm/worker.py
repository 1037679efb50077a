"""What runs inside vLLM's workers, in this process or, with tensor parallelism, in theirs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from r1zero.errors import SyncError
from r1zero.launch import compat


def seed_worker(worker: Any, seed: int) -> None:
    """Let a worker process draw from this seed: with tensor parallelism the sampler's state is not ours."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)


SHARD = 2**30
"""Bytes of weights in one file for the workers."""


@contextmanager
def shared_files(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[list[str]]:
    """Named tensors as safetensors in files without a name, which the kernel removes with this process.

    Worker processes open them by the paths given; each reads its share.
    """
    from safetensors.torch import save

    held: list[int] = []
    shard: dict[str, torch.Tensor] = {}

    def flush() -> None:
        held.append(os.memfd_create("weights"))
        with os.fdopen(os.dup(held[-1]), "wb") as file:
            file.write(save(shard))
        shard.clear()

    try:
        for name, tensor in weights:
            shard[name] = tensor.cpu().contiguous()
            if sum(t.numel() * t.element_size() for t in shard.values()) >= SHARD:
                flush()
        if shard:
            flush()
        yield [f"/proc/{os.getpid()}/fd/{number}" for number in held]
    finally:
        for number in held:
            os.close(number)


def reload_worker(worker: Any, files: list[str]) -> None:
    """Let a worker process read its share of the new weights; with tensor parallelism they can't be handed over."""
    from safetensors import safe_open

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for file in files:
            with safe_open(file, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - no mapping
                    yield name, shard.get_tensor(name)

    worker.reload_weights(weights_iterator=tensors())


def refresh_tied_head(model: torch.nn.Module) -> None:
    """Make a tied output head follow its embedding after a reload (trap 40); runs in the worker.

    A reload loads each module by the tensors that carry its name. A tied head has none, so it is put back
    as it was: on the CPU backend that is a packed copy of the *first* weights. The head is tied again and
    packed again. On GPUs the head shares the embedding's storage; where it does not, it is copied.
    """
    config = getattr(model, "config", None)
    text_config = config.get_text_config() if config is not None else None
    if not getattr(text_config, "tie_word_embeddings", False):
        return
    heads, embeddings = compat.vocabulary_layers(model)
    if not heads:
        return  # the embedding module itself serves as the head
    if len(heads) != 1 or len(embeddings) != 1:
        counted = f"{len(heads)} heads and {len(embeddings)} embeddings"
        raise SyncError(f"a tied model with {counted}: the sampler's head can't be refreshed")
    head, embedding = heads[0], embeddings[0]
    if embedding.weight.device.type == "cpu":
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)
    elif head.weight.data_ptr() != embedding.weight.data_ptr():
        head.weight.data.copy_(embedding.weight.data)
