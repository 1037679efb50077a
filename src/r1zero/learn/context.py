"""Long sequences over several ranks: a group of them makes each pass together (optim.context_parallel).

Each rank computes a run of columns of the padded batch. Everything but attention treats tokens alone, so parameters,
norms and head need no exchange; around attention, tokens are exchanged for heads, so that each rank has all tokens of
its share of the heads (DeepSpeed-Ulysses, arXiv 2309.14509). Every rank gets the log-probabilities of all tokens, and
parameter gradients are sums over the group's ranks, as they are over ranks anyway. The ranks of a group have responses
of their own: their passes are made by all of them, one after the other.

torch's own ``context_parallel`` (2.13) has ring attention for CUDA kernels alone, and transformers and accelerate rest
on it, or on DeepSpeed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

from r1zero.errors import UserError
from r1zero.learn.collate import MicroBatch

NAME = "heads_for_tokens"
"""This attention among those of transformers, which makes no mask for a name that it does not know."""


class _Exchanged(torch.autograd.Function):
    """Slice i of the first dimension goes to rank i of the group; gradients go back by the same way."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        dist.all_to_all_single(out, tensor.contiguous(), group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None]:
        return _Exchanged.apply(gradients[0], ctx.group), None


class _Summed(torch.autograd.Function):
    """The sum over the group's ranks, on each; so is the gradient, to which ranks without a loss add zeros."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        out = tensor.clone()
        dist.all_reduce(out, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None]:
        return _Summed.apply(gradients[0], ctx.group), None


class Context:
    """A group of ranks, each of which computes a share of the columns of a padded batch.

    Args:
        group: the process group; its ranks call everything here together.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def serve(self, model: Any) -> None:
        """Let a model compute attention over the group.

        Raises:
            UserError: its attention is not plain causal attention over all tokens, or keeps to itself.
        """
        from transformers import AttentionInterface

        key = f"optim.context_parallel={self.size}"
        if not (model.supports_context_parallel and model.is_backend_compatible()):
            raise UserError(f"{key}: {type(model).__name__} has attention that can't be cut by heads: leave it out")
        heads = model.config.get_text_config().num_attention_heads
        if heads % self.size:
            raise UserError(f"{key} deals out attention's heads, and this model has {heads}: choose a divisor of it")
        AttentionInterface.register(NAME, self.attention)
        model.set_attn_implementation(NAME)

    def attention(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **settings: Any
    ) -> tuple[torch.Tensor, None]:
        """Causal attention of this rank's tokens to all before them, as transformers asks for it.

        Args:
            module: the layer; not looked at.
            query: [n, heads, S / ranks, D].
            key: [n, heads of keys, S / ranks, D]; repeated where they are fewer than ranks, or no multiple.
            value: the same.
            mask: None: padding is on the right.
            **settings: ``scaling`` of the products.

        Returns:
            [n, S / ranks, heads, D], and no weights.
        """
        assert mask is None
        q, k, v = (self._tokens_for_heads(x) for x in (query, self._spread(key), self._spread(value)))
        grouped = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=settings.get("scaling"), enable_gqa=grouped)
        parts = out.unflatten(2, (self.size, -1)).movedim(2, 0)
        return _Exchanged.apply(parts, self.group).movedim(0, 1).flatten(1, 2).transpose(1, 2), None

    def _spread(self, states: torch.Tensor) -> torch.Tensor:
        """Keys or values, each head as often as it takes to deal them out evenly."""
        heads = states.shape[1]
        return states.repeat_interleave(math.lcm(heads, self.size) // heads, dim=1)

    def _tokens_for_heads(self, states: torch.Tensor) -> torch.Tensor:
        """[n, heads, S / ranks, D] of this rank's tokens to [n, heads / ranks, S, D] of this rank's heads."""
        parts = states.unflatten(1, (self.size, -1)).movedim(1, 0)
        return _Exchanged.apply(parts, self.group).movedim(0, 2).flatten(2, 3)

    def share(self, batch: MicroBatch) -> MicroBatch:
        """This rank's columns, and of the sampled tokens those that are predicted there."""
        rows, width = batch.input_ids.shape
        each = -(-width // self.size)
        first = self.rank * each
        ids = F.pad(batch.input_ids, (0, each * self.size - width))[:, first : first + each]
        positions = torch.arange(first, first + each, device=ids.device).clamp(max=width - 1).expand(rows, -1)
        row, column = batch.source // width, batch.source % width
        mine = (column >= first) & (column < first + each)
        mask = batch.mask.clone()
        mask[batch.mask] = mine
        return MicroBatch(ids, positions, (row * each + column - first)[mine], batch.targets[mine], mask)

    def whole(self, logp: torch.Tensor, entropy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Figures of all tokens [n, T] from those of each rank's own, which are 0 elsewhere."""
        both = _Summed.apply(torch.stack((logp, entropy)), self.group)
        return both[0], both[1]

    def everyones(self, mine: list[MicroBatch]) -> list[list[MicroBatch]]:
        """The batches of each rank of the group, on this rank's device; all have as many."""
        theirs: list[Any] = [None] * self.size
        dist.all_gather_object(theirs, [batch.to(torch.device("cpu")) for batch in mine], group=self.group)
        device = mine[0].input_ids.device if mine else torch.device("cpu")
        return [[batch.to(device) for batch in batches] for batches in theirs]
