"""Gradients of embedding and head, added up in ``.grad`` itself.

autograd makes the gradient of each use of a matrix as a matrix of its own, and then adds: under a vocabulary of 151,936
a tied embedding has three as large as itself at the peak of a backward pass. The embedding's has rows for the tokens
of the pass alone, and the head's is made in parts, so neither is needed whole. The sums are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class GradientSum:
    """The gradient of one matrix [V, H], to which a backward pass adds its parts.

    Where the head's matrix is the embedding's too, autograd adds the two uses of a pass to each other before it adds
    them to earlier passes. So the rows of tokens that are looked up begin at zero in the head's backward pass, and
    what was there comes back with the embedding's part, which is always later.

    Args:
        weight: the parameter; its gradient is read by nothing but the optimizer.
        rows: int64 [R], sorted, those that the pass looks up in this matrix; None: it is a head alone.
    """

    def __init__(self, weight: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        self.weight, self.rows = weight, rows
        self._before: torch.Tensor | None = None

    def begin(self) -> None:
        """The head's backward pass begins."""
        if self.weight.grad is not None and self.rows is not None:
            self._before = self.weight.grad[self.rows]
            self.weight.grad[self.rows] = 0

    def add(self, columns: slice, part: torch.Tensor) -> None:
        """The head's part for some of the vocabulary, [v, H]."""
        self._gradient()[columns] += part.to(self.weight.dtype)

    def add_rows(self, part: torch.Tensor) -> None:
        """The embedding's part for its rows, [R, H]."""
        gradient, before = self._gradient(), self._before
        self._before = None
        found = gradient[self.rows] + part
        gradient[self.rows] = found if before is None else before + found

    def _gradient(self) -> torch.Tensor:
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        return self.weight.grad


class _Lookup(torch.autograd.Function):
    """An embedding's rows; backward adds to the sum and gives autograd nothing."""

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, ids: torch.Tensor, padding: int | None, into: GradientSum
    ) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.padding, ctx.into = padding, into
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, ...]:
        (ids,), rows = ctx.saved_tensors, ctx.into.rows
        place, count = torch.searchsorted(rows, ids), len(rows)
        if ctx.padding is not None:  # its gradient is zero: it goes to one more row, which is left out
            place = torch.where(ids == ctx.padding, count, place)
        part = torch.ops.aten.embedding_dense_backward(grads[0], place, count + 1, count, False)
        ctx.into.add_rows(part[:count])
        return None, None, None, None


@contextmanager
def lookups_in_place(model: Any, into: GradientSum | None) -> Iterator[None]:
    """In this context the embedding's gradient goes to ``into``; None: to autograd, as ever. It is called once here."""
    if into is None:
        yield
        return

    def hook(module: Any, inputs: tuple[torch.Tensor, ...], states: torch.Tensor) -> torch.Tensor:
        return _Lookup.apply(module.weight, inputs[0], module.padding_idx, into)

    handle = model.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def looks_up(embedding: nn.Module) -> bool:
    """Whether an embedding looks rows up and does no more."""
    plain = type(embedding) is nn.Embedding and embedding.max_norm is None
    return plain and not embedding.scale_grad_by_freq and not embedding.sparse


def gradient_sums(
    model: Any, rows: torch.Tensor, hooked: Callable[[torch.Tensor], bool]
) -> tuple[GradientSum | None, GradientSum | None]:
    """Where a pass adds the gradients of a model's embedding and head, one sum where they share a matrix.

    None for a matrix that is frozen, or ``hooked``: something waits for its gradient as autograd makes it.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    may = {id(weight): weight.requires_grad and not hooked(weight) for weight in (embedding, head)}
    of_embedding = GradientSum(embedding, rows) if may[id(embedding)] else None
    if embedding is head:
        return of_embedding, of_embedding
    return of_embedding, GradientSum(head) if may[id(head)] else None
