"""Log-probabilities and entropy of tokens from hidden states, without the [tokens, vocabulary] matrix.

Qwen's vocabulary has 151,936 entries: the logits of one response of 3,000 tokens are 1.8 GB in float32,
and softmax and gradient need as much again. Here the head is applied to a tile of some tokens and some of
the vocabulary at a time and again in the backward pass, so memory grows with neither vocabulary nor tokens
(semantics 6). Tiles go through the vocabulary for the same tokens: each part of the head and of its gradient
is then read and written once for many tokens instead of once for few.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

TILE = {"cpu": (512, 1024)}
"""Tokens and vocabulary entries worked on at once, by device: 2 MiB in float32 stay in a CPU's cache."""
TILE_ELSEWHERE = (4096, 16384)
"""On GPUs: large products, and the head's gradient is touched once per 4,096 tokens."""


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = True,
    tile: tuple[int, int] | None = None,
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

    Returns:
        log-probabilities float32 [M] and entropies float32 [M], nats, both differentiable.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be above 0: a greedy sampler has no log-probabilities")
    tokens, entries = tile or TILE.get(hidden.device.type, TILE_ELSEWHERE)
    tile = max(1, min(tokens, hidden.shape[0])), max(1, min(entries, weight.shape[0]))
    return _TiledHead.apply(hidden, weight, targets, float(temperature), bool(with_entropy), tile)


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
        temperature: float,
        with_entropy: bool,
        tile: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logp = torch.empty(hidden.shape[0], dtype=_wide(hidden.dtype), device=hidden.device)
        log_z = torch.empty_like(logp)
        entropy = torch.zeros_like(logp)
        logits, exps = _Tile(tile, logp), _Tile(tile, logp)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _parts(hidden.shape[0], tile[0]):
                # Of the vocabulary so far: the greatest logit, sum_v e^(x_v), sum_v x_v e^(x_v), x = logit - greatest.
                # With x <= 0 no digits cancel in the entropy, log sum e^x - sum x e^x / sum e^x.
                top = torch.full_like(logp[rows], torch.finfo(logp.dtype).min)
                total, spread, chosen = torch.zeros_like(top), torch.zeros_like(top), torch.zeros_like(top)
                for columns in _parts(weight.shape[0], tile[1]):
                    x = logits.of(hidden[rows], weight[columns], temperature)
                    here, index = _position(targets[rows], columns)
                    chosen = torch.where(here, x.gather(-1, index[:, None])[:, 0], chosen)
                    higher = torch.maximum(top, x.amax(dim=-1))
                    e = torch.exp(x.sub_(higher[:, None]), out=exps.like(x))
                    shift = top - higher
                    shrink = shift.exp()
                    if with_entropy:
                        spread = shrink * (spread + shift * total)
                    total = shrink * total + e.sum(dim=-1)
                    if with_entropy:
                        spread += e.mul_(x).sum(dim=-1)
                    top = higher
                log_z[rows] = top + total.log()
                # Not chosen - log_z: the greatest logit may be 30, and both terms would be rounded at its size.
                logp[rows] = (chosen - top) - total.log()
                if with_entropy:
                    entropy[rows] = total.log() - spread / total
        ctx.save_for_backward(hidden, weight, targets, log_z, entropy)
        ctx.temperature, ctx.tile, ctx.with_entropy = temperature, tile, with_entropy
        ctx.set_materialize_grads(
            False
        )  # what the loss does not use has no gradient: a value would have to be looked at
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        hidden, weight, targets, log_z, entropy = ctx.saved_tensors
        grad_logp = torch.zeros_like(log_z) if grads[0] is None else grads[0]
        grad_entropy = grads[1] if ctx.with_entropy else None
        # Sums over tiles are in float32: a bfloat16 sum over thousands of terms would lose small gradients.
        grad_hidden = torch.zeros(hidden.shape, dtype=log_z.dtype, device=hidden.device)
        grad_weight = None  # stays None for a frozen head: it is as large as the head itself
        if ctx.needs_input_grad[1]:
            once = hidden.shape[0] <= ctx.tile[0]  # nothing to add up: no second copy in another format
            grad_weight = torch.empty(weight.shape, dtype=weight.dtype if once else log_z.dtype, device=weight.device)
            if hidden.shape[0] == 0:
                grad_weight.zero_()
        logits, slopes = _Tile(ctx.tile, log_z), _Tile((0, 0) if grad_entropy is None else ctx.tile, log_z)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _parts(hidden.shape[0], ctx.tile[0]):
                for columns in _parts(weight.shape[0], ctx.tile[1]):
                    logp = logits.of(hidden[rows], weight[columns], ctx.temperature).sub_(log_z[rows, None])
                    if grad_entropy is not None:
                        # d logp_y / d logit_v = [v = y] - p_v;  d H / d logit_v = -p_v (log p_v + H)
                        slope = torch.add(logp, entropy[rows, None], out=slopes.like(logp))
                        slope.mul_(-grad_entropy[rows, None]).sub_(grad_logp[rows, None])
                        grad_logits = logp.exp_().mul_(slope)
                    else:
                        grad_logits = logp.exp_().mul_(-grad_logp[rows, None])
                    here, index = _position(targets[rows], columns)
                    grad_logits.scatter_add_(-1, index[:, None], (grad_logp[rows] * here)[:, None])
                    grad_logits = grad_logits.div_(ctx.temperature).to(hidden.dtype)
                    _add_product(grad_hidden[rows], grad_logits, weight[columns].to(hidden.dtype))
                    if grad_weight is None:
                        continue
                    if rows.start == 0:
                        grad_weight[columns] = grad_logits.T @ hidden[rows]
                    else:
                        _add_product(grad_weight[columns], grad_logits.T, hidden[rows])
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None


class _Tile:
    """Room for the logits of one tile, used again and again: fresh memory costs a CPU as much as the arithmetic."""

    def __init__(self, tile: tuple[int, int], like: torch.Tensor) -> None:
        self.room = torch.empty(tile[0] * tile[1], dtype=like.dtype, device=like.device)

    def like(self, other: torch.Tensor) -> torch.Tensor:
        """Room of another tile's shape."""
        return self.room[: other.numel()].view(other.shape)

    def of(self, hidden: torch.Tensor, head: torch.Tensor, temperature: float) -> torch.Tensor:
        """Logits hidden @ head.T / temperature, multiplied in the dtype of ``hidden``."""
        logits = self.room[: hidden.shape[0] * head.shape[0]].view(hidden.shape[0], head.shape[0])
        head = head.to(hidden.dtype)
        if hidden.dtype == logits.dtype:
            torch.mm(hidden, head.T, out=logits)
        else:
            logits.copy_(hidden @ head.T)
        return logits if temperature == 1.0 else logits.div_(temperature)


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _position(targets: torch.Tensor, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Which targets lie in these columns, and a column for each (any, for the others): no wait for a GPU."""
    here = (targets >= columns.start) & (targets < columns.stop)
    return here, (targets - columns.start).clamp(0, columns.stop - columns.start - 1)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left @ right; the product is made in its factors' dtype."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The format in which probabilities are computed: float32, or float64 for float64 states."""
    return torch.promote_types(dtype, torch.float32)


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(_wide(values.dtype))
