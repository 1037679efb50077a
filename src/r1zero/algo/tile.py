"""One tile of the head's logits: its products, and the work between them in one function for each direction.

The functions run as they are written, in place, or compiled, as one kernel that reads each logit once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

LN2 = math.log(2)
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""left [m, k], right [n, k] -> left @ right.T [m, n]."""


def add_tile(
    x: torch.Tensor,
    here: torch.Tensor,
    index: torch.Tensor,
    top: torch.Tensor,
    total: torch.Tensor,
    spread: torch.Tensor,
    chosen: torch.Tensor,
    scale: float,
    two: bool,
    with_entropy: bool,
    room: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """The sums over the vocabulary with one tile's logits [m, v] in them: (top, total, spread, chosen), [m] each.

    With ``room``, as large as the tile, it writes over both; compiled, without it, over neither: numbers that one
    kernel reads once need no place.
    """
    x = x.to(top.dtype)
    chosen = torch.where(here, x.gather(-1, index[:, None])[:, 0] * scale, chosen)
    higher = torch.maximum(top, x.amax(dim=-1) * scale)
    x = torch.add(-higher[:, None], x, alpha=scale, out=None if room is None else x)
    e = (torch.exp2 if two else torch.exp)(x, out=room)
    shift = top - higher
    shrink = torch.exp2(shift) if two else shift.exp()
    if with_entropy:
        spread = shrink * (spread + shift * total)
    total = shrink * total + e.sum(dim=-1)
    if with_entropy:
        spread = spread + e.mul_(x).sum(dim=-1)
    return higher, total, spread, chosen


def tile_gradient(
    x: torch.Tensor,
    here: torch.Tensor,
    index: torch.Tensor,
    log_z: torch.Tensor,
    entropy: torch.Tensor,
    grad_logp: torch.Tensor,
    grad_entropy: torch.Tensor | None,
    scale: float,
    two: bool,
    compiled: bool,
    room: torch.Tensor | None,
) -> torch.Tensor:
    """Gradient of a tile's logits [m, v]; in their place, or compiled: as new numbers of their format.

    d logp_y / d logit_v = [v = y] - p_v;  d H / d logit_v = -p_v (log p_v + H)
    """
    given = x.dtype
    x = x.to(log_z.dtype)
    x = torch.add(-log_z[:, None], x, alpha=scale, out=None if compiled else x)
    if grad_entropy is None:
        slope = -grad_logp[:, None]
    else:
        slope = torch.add(entropy[:, None], x, alpha=LN2 if two else 1.0, out=room)
        slope = slope.mul_(-grad_entropy[:, None]).sub_(grad_logp[:, None])
    x = (x.exp2_() if two else x.exp_()).mul_(slope)
    if compiled:  # in the same kernel: adding at an index would be one of its own
        chosen = here[:, None] & (torch.arange(x.shape[1], device=x.device) == index[:, None])
        return (x + torch.where(chosen, grad_logp[:, None], 0.0)).to(given)
    return x.scatter_add_(-1, index[:, None], (grad_logp * here)[:, None])


@dataclass(frozen=True)
class Kind:
    """How a head is worked on.

    Attributes:
        tile: tokens and vocabulary entries at a time.
        temperature: > 0.
        two: powers of two in place of e, of logits in units of ln 2: torch's exp2 takes a quarter of exp's time on a
            CPU. In float32 within rounding of each other; a vocabulary of one tile keeps e.
        product: left @ right.T, or None for torch's own.
        compiled: the work between products is compiled, so each logit is read once and nothing is kept beside it.
    """

    tile: tuple[int, int]
    temperature: float
    two: bool
    product: Product | None
    compiled: bool

    def work(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A tile's work as it is written, or compiled."""
        return _compiled(function) if self.compiled else function

    @property
    def unit(self) -> float:
        """Nats of a unit in which exponents are taken."""
        return LN2 if self.two else 1.0

    @property
    def scale(self) -> float:
        """Units of a logit as the head gives it."""
        return 1.0 / (self.unit * self.temperature)

    def logits(self, hidden: torch.Tensor, head: torch.Tensor, room: Room) -> torch.Tensor:
        """Logits hidden @ head.T, multiplied in the dtype of ``hidden``; in ``room`` but for another library's."""
        if self.product is not None:
            return self.product(hidden, head)
        if self.compiled:
            return hidden @ head.T
        logits = room.shape(hidden.shape[0], head.shape[0])
        return torch.mm(hidden, head.T, out=logits) if hidden.dtype == logits.dtype else logits.copy_(hidden @ head.T)

    def add_product(self, total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, first: bool) -> None:
        """Add left @ right, made in its factors' dtype, to ``total``; ``first``: what is there counts for nothing."""
        if self.product is not None or total.dtype != left.dtype:
            product = left @ right if self.product is None else self.product(left, right.T)
            total.copy_(product) if first else total.add_(product)
        elif first:
            torch.mm(left, right, out=total)
        else:
            total.addmm_(left, right)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


class Room:
    """Room for the numbers of one tile, used again and again: fresh memory costs a CPU as much as the arithmetic."""

    def __init__(self, tile: tuple[int, int], like: torch.Tensor) -> None:
        self.room = torch.empty(tile[0] * tile[1], dtype=like.dtype, device=like.device)

    def shape(self, rows: int, columns: int) -> torch.Tensor:
        """A matrix."""
        return self.room[: rows * columns].view(rows, columns)

    def like(self, other: torch.Tensor) -> torch.Tensor:
        """A matrix of another's shape."""
        return self.shape(other.shape[0], other.shape[1])
