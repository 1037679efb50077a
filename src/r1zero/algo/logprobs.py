"""Log-probabilities and entropy of tokens from hidden states, without the [tokens, vocabulary] matrix.

Qwen's vocabulary has 151,936 entries: the logits of one response of 3,000 tokens are 1.8 GB in float32,
and softmax and gradient need as much again. Here the head is applied to a tile of some tokens and some of
the vocabulary at a time and again in the backward pass, so memory grows with neither vocabulary nor tokens
(semantics 6). Tiles go through the tokens for the same part of the vocabulary: each part of the head and of its
gradient is read, rounded to the format of compute and written once a pass, and stays in the cache meanwhile.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from r1zero.algo.in_place import GradientSum
from r1zero.algo.tile import Kind, Product, Room, add_tile, tile_gradient

TILE = {"cpu": (512, 1024)}
"""Tokens and vocabulary entries worked on at once, by device: 2 MiB in float32 stay in a CPU's cache."""
TILE_ELSEWHERE = (4096, 16384)
"""On GPUs: large products."""


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = True,
    tile: tuple[int, int] | None = None,
    product: Product | None = None,
    compiled: bool | None = None,
    into: GradientSum | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target token and entropy of its distribution.

    logits = hidden @ weight.T / temperature in the dtype of ``hidden``, whatever autocast says; log-softmax
    in float32, or in float64 where ``hidden`` is.

    Args:
        hidden: states that predict the targets, [M, H]; position t of a sequence predicts token t + 1 (trap 17).
        weight: output embedding, [V, H].
        targets: token ids, int64 [M].
        temperature: the sampling temperature (trap 19), > 0.
        with_entropy: also compute the entropy; zeros otherwise.
        tile: tokens and vocabulary entries whose logits are held at once; None: by device.
        product: left @ right.T of float32 matrices by another library than torch's own, for vocabularies of more
            than a tile; see ``launch/compat.py``.
        compiled: torch.compile the work on a tile between its products; None: on a GPU with Triton.
        into: takes the gradient of ``weight`` as parts are made; None: autograd gets it, whole.

    Returns:
        log-probabilities float32 [M] and entropies float32 [M], nats, both differentiable.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be above 0: a greedy sampler has no log-probabilities")
    tokens, entries = tile or TILE.get(hidden.device.type, TILE_ELSEWHERE)
    tile = max(1, min(tokens, hidden.shape[0])), max(1, min(entries, weight.shape[0]))
    if compiled is None:
        compiled = hidden.device.type == "cuda" and find_spec("triton") is not None
    many = weight.shape[0] > tile[1]
    plain = not many or hidden.dtype != torch.float32 or weight.dtype != torch.float32
    kind = Kind(tile, float(temperature), two=many, product=None if plain else product, compiled=compiled)
    return _TiledHead.apply(hidden, weight, targets, kind, bool(with_entropy), into)


def logprobs_from_logits(
    logits: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from whole logits [M, V]: the plain definition that the tiled path is tested against."""
    logp = torch.log_softmax(_at_least_float32(logits) / temperature, dim=-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(dim=-1)


class _TiledHead(torch.autograd.Function):
    """Forward keeps the log-normaliser and the entropy per token; backward makes each tile's logits again.

    Both run without autocast. It would otherwise still be on in the backward pass, which a manual
    optimisation calls inside the autocast region: logits made again in another number format than those
    that the log-normaliser was taken from are not log-probabilities.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        kind: Kind,
        with_entropy: bool,
        into: GradientSum | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logp = torch.empty(hidden.shape[0], dtype=_wide(hidden.dtype), device=hidden.device)
        entropy = torch.zeros_like(logp)
        # Of the vocabulary so far: the greatest logit, sum_v e^(x_v), sum_v x_v e^(x_v), x = logit - greatest.
        # With x <= 0 no digits cancel in the entropy, log sum e^x - sum x e^x / sum e^x.
        top = torch.full_like(logp, torch.finfo(logp.dtype).min)
        total, spread, chosen = torch.zeros_like(logp), torch.zeros_like(logp), torch.zeros_like(logp)
        logits, exps = (Room((0, 0) if kind.compiled else kind.tile, logp) for _ in range(2))
        with torch.autocast(hidden.device.type, enabled=False):
            for columns in _parts(weight.shape[0], kind.tile[1]):
                head = weight[columns].to(hidden.dtype)
                for rows in _parts(hidden.shape[0], kind.tile[0]):
                    x = kind.logits(hidden[rows], head, logits)
                    sums = top[rows], total[rows], spread[rows], chosen[rows]
                    here, index = _position(targets[rows], columns)
                    room = None if kind.compiled else exps.like(x)
                    found = kind.work(add_tile)(x, here, index, *sums, kind.scale, kind.two, with_entropy, room)
                    for old, new in zip(sums, found, strict=True):
                        old.copy_(new)
        # Not chosen - log_z: the greatest logit may be 30, and both terms would be rounded at its size.
        logp = (chosen - top) * kind.unit - total.log()
        if with_entropy:
            entropy = total.log() - spread * kind.unit / total
        ctx.save_for_backward(hidden, weight, targets, top + total.log() / kind.unit, entropy)
        ctx.kind, ctx.with_entropy, ctx.into = kind, with_entropy, into
        # What the loss does not use has no gradient: a value would have to be looked at.
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        hidden, weight, targets, log_z, entropy = ctx.saved_tensors
        kind: Kind = ctx.kind
        grad_logp = (torch.zeros_like(log_z) if grads[0] is None else grads[0]) / kind.temperature
        grad_entropy = grads[1] / kind.temperature if ctx.with_entropy and grads[1] is not None else None
        # Sums over tiles are in float32: a bfloat16 sum over thousands of terms would lose small gradients.
        grad_hidden = torch.zeros(hidden.shape, dtype=log_z.dtype, device=hidden.device)
        into: GradientSum | None = ctx.into if ctx.needs_input_grad[1] else None
        grad_weight = None  # stays None for a frozen head: it is as large as the head itself
        if into is not None:
            into.begin()
        elif ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight) if hidden.shape[0] else torch.zeros_like(weight)
        unused = kind.compiled, kind.compiled or grad_entropy is None
        logits, slopes = (Room((0, 0) if no else kind.tile, log_z) for no in unused)
        part = None if into is None else Room((kind.tile[1], hidden.shape[1]), log_z)
        with torch.autocast(hidden.device.type, enabled=False):
            for columns in _parts(weight.shape[0], kind.tile[1]):
                head = weight[columns].to(hidden.dtype)
                # In full for these columns before the next ones: a head in fewer bits has one float32 tile at a time.
                grad_head = None if grad_weight is None else grad_weight[columns].to(log_z.dtype)
                if part is not None:
                    grad_head = part.like(head)  # room for these columns' sum, added to those of other passes after it
                for rows in _parts(hidden.shape[0], kind.tile[0]):
                    x = kind.logits(hidden[rows], head, logits)
                    here, index = _position(targets[rows], columns)
                    wanted = grad_logp[rows], None if grad_entropy is None else grad_entropy[rows]
                    room = None if grad_entropy is None or kind.compiled else slopes.like(x)
                    known = log_z[rows], entropy[rows]
                    grad_logits = kind.work(tile_gradient)(
                        x, here, index, *known, *wanted, kind.scale, kind.two, kind.compiled, room
                    ).to(hidden.dtype)
                    kind.add_product(grad_hidden[rows], grad_logits, head, first=False)
                    if grad_head is not None:
                        kind.add_product(grad_head, grad_logits.T, hidden[rows], first=rows.start == 0)
                if into is not None and grad_head is not None and hidden.shape[0]:
                    into.add(columns, grad_head)
                elif grad_weight is not None and grad_head is not None and grad_weight.dtype != log_z.dtype:
                    grad_weight[columns] = grad_head
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _position(targets: torch.Tensor, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Which targets lie in these columns, and a column for each (any, for the others): no wait for a GPU."""
    here = (targets >= columns.start) & (targets < columns.stop)
    return here, (targets - columns.start).clamp(0, columns.stop - columns.start - 1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The format in which probabilities are computed: float32, or float64 for float64 states."""
    return torch.promote_types(dtype, torch.float32)


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(_wide(values.dtype))
