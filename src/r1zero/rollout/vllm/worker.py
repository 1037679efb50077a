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


TAKEN = "taken_of_the_learner"
"""Attribute of vLLM's model: names of its parameters that it loaded since the last check; None: it did not say."""


def note_loads(model: torch.nn.Module) -> None:
    """Let the model remember which of its parameters a reload reaches; runs in the worker, once."""
    load: Any = model.load_weights

    def noted(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        before: set[str] | None = getattr(model, TAKEN, set())
        object.__setattr__(model, TAKEN, None if loaded is None or before is None else before | set(loaded))
        return loaded

    object.__setattr__(model, "load_weights", noted)


def check_taken(model: torch.nn.Module) -> None:
    """See that the last reload reached every parameter: vLLM itself only warns. Runs in the worker.

    A tied head has no tensor of its own; :func:`refresh_tied_head` sees to it. Scales of rounded weights
    (``rollout.quantization``) are made of the weights that were taken.

    Raises:
        SyncError: naming parameters that kept older weights.
    """
    taken = getattr(model, TAKEN, None)
    object.__setattr__(model, TAKEN, set())
    if not taken:
        return
    heads = tied_heads(model)
    left = sorted(
        name
        for name, _ in model.named_parameters()
        if not {name, name.removesuffix("_scale")} & taken and model.get_submodule(name.rpartition(".")[0]) not in heads
    )
    if left:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        raise SyncError(
            f"vLLM did not take {', '.join(left[:4])}{more} of {type(model).__name__} from the learner, so it would "
            "sample with older weights: use rollout=hf for this model"
        )


def tied_heads(model: torch.nn.Module) -> list[Any]:
    """Output heads that are one with the embedding."""
    config = getattr(model, "config", None)
    text_config = config.get_text_config() if config is not None else None
    if not getattr(text_config, "tie_word_embeddings", False):
        return []
    return compat.vocabulary_layers(model)[0]


def refresh_tied_head(model: torch.nn.Module) -> None:
    """Make a tied output head follow its embedding after a reload (trap 40); runs in the worker.

    A reload loads each module by the tensors that carry its name. A tied head has none, so it is put back
    as it was: on the CPU backend that is a packed copy of the *first* weights. The head is tied again and
    packed again. On GPUs the head shares the embedding's storage; where it does not, it is copied.
    """
    heads = tied_heads(model)
    if not heads:
        return  # not tied, or the embedding module itself serves as the head
    embeddings = compat.vocabulary_layers(model)[1]
    if len(heads) != 1 or len(embeddings) != 1:
        counted = f"{len(heads)} heads and {len(embeddings)} embeddings"
        raise SyncError(f"a tied model with {counted}: the sampler's head can't be refreshed")
    head, embedding = heads[0], embeddings[0]
    if embedding.weight.device.type == "cpu":
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)
    elif head.weight.data_ptr() != embedding.weight.data_ptr():
        head.weight.data.copy_(embedding.weight.data)
