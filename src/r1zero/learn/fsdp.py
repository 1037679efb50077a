"""Sharding of a policy over ranks (FSDP2), for the ``fsdp`` trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from r1zero.launch import compat
from r1zero.launch.run_folder import is_main_rank


def receives_weights(strategy: Any) -> bool:
    """Whether this rank starts without weights and is sent its shards; under FSDP every rank but the first is."""
    return isinstance(strategy, ModelParallelStrategy) and not is_main_rank()


def shard_policy(policy: nn.Module, device_type: str, dtype: torch.dtype = torch.float32) -> None:
    """Split every parameter over all ranks, in place; each decoder layer is gathered for its own passes alone.

    Last norm and head form the root group, which stays whole from the start of its own ``forward`` to the end of the
    backward pass: the chunked head reads its weight in both. The embedding is as large and is gathered apart, for the
    start of each pass, unless it is the head's own weight (tied). A second call does nothing.

    Every rank gets the weights of the first, group by group, and keeps its shard of a group before the next one comes:
    no other rank ever holds a whole model.

    Args:
        policy: holds a Hugging Face model as ``model``, on rank 0 with whole weights, on others with any or on the meta
            device. Trained ones are float32 and stay so: the shards are the masters (semantics 11).
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
    units = [module for module in model.modules() if type(module).__name__ in layers]
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight is not head.weight:
        units.append(embedding)
    for unit in [*units, policy]:
        receive(unit, policy, device_type)
        fully_shard(unit, mesh=mesh, mp_policy=mixed)


@torch.no_grad()
def receive(unit: nn.Module, policy: nn.Module, device_type: str) -> None:
    """Send what a unit holds and is not sharded yet from rank 0 to all others, which allocate it where it is meta.

    Parameters, buffers and plain attributes; a tensor that several modules share stays one.
    """
    own = {id(tensor) for _, _, tensor in _unsharded(unit)}
    places: dict[int, list[tuple[nn.Module, str, torch.Tensor]]] = {}
    for place in _unsharded(policy):
        if id(place[2]) in own:
            places.setdefault(id(place[2]), []).append(place)
    for shared in places.values():
        tensor = shared[0][2]
        if tensor.is_meta:
            local = torch.empty_like(tensor, device=device_type, memory_format=torch.contiguous_format)
        else:
            local = tensor.detach().to(device_type).contiguous()
        torch.distributed.broadcast(local.reshape(-1).view(torch.uint8), 0)
        if isinstance(tensor, nn.Parameter):
            local = nn.Parameter(local, requires_grad=tensor.requires_grad)
        for module, name, _ in shared:
            setattr(module, name, local)


def _unsharded(root: nn.Module) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    """Every module below one that holds a tensor itself, its name there, and the tensor; shards are left out."""
    for module in root.modules():
        registered = (module.named_parameters, module.named_buffers)
        held = [pair for named in registered for pair in named(recurse=False, remove_duplicate=False)]
        for name, tensor in [*held, *vars(module).items()]:
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, DTensor):
                yield module, name, tensor
