"""Sharding of a policy over ranks (FSDP2), for the ``fsdp`` trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from r1zero.launch import compat


def shard_policy(policy: nn.Module, device_type: str, dtype: torch.dtype = torch.float32) -> None:
    """Split every parameter over all ranks, in place; each decoder layer is gathered for its own passes alone.

    Last norm and head form the root group, which stays whole from the start of its own ``forward`` to the end of the
    backward pass: the chunked head reads its weight in both. The embedding is as large and is gathered apart, for the
    start of each pass, unless it is the head's own weight (tied). A second call does nothing.

    Args:
        policy: holds a Hugging Face model as ``model``, with whole weights, the same on every rank. Trained ones are
            float32 and stay so: the shards are the masters (semantics 11).
        device_type: "cuda" or "cpu".
        dtype: number format in which parameters are gathered and computed with; gradients are reduced
            over ranks in float32.
    """
    if isinstance(policy, FSDPModule):
        return
    mesh = init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    mixed = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
    model: Any = policy.model
    layers = compat.layer_classes(model)
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=mixed)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight is not head.weight:
        fully_shard(embedding, mesh=mesh, mp_policy=mixed)
    fully_shard(policy, mesh=mesh, mp_policy=mixed)
