"""Log-probabilities and entropy of tokens from hidden states, without the [tokens, vocabulary] matrix.

Qwen's vocabulary has 151,936 entries: the logits of one response of 3,000 tokens are 1.8 GB in float32,
and softmax and gradient need as much again. Here the head is applied to a few tokens at a time and
recomputed in the backward pass, so memory grows with neither vocabulary nor tokens (semantics 6).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = {"cpu": 2**23}
"""Largest number of logits held at once, by device: 32 MiB in float32."""
CHUNK_ELEMENTS_ELSEWHERE = 2**26
"""On GPUs: every chunk reads and writes the head's whole gradient, which is soon more work than the product itself."""


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = True,
    chunk_elements: int | None = None,
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
        chunk_elements: most logits held at once; None: by device.

    Returns:
        log-probabilities float32 [M] and entropies float32 [M], nats, both differentiable.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be above 0: a greedy sampler has no log-probabilities")
    if chunk_elements is None:
        chunk_elements = CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS_ELSEWHERE)
    chunk = max(1, min(hidden.shape[0], chunk_elements // weight.shape[0]))
    return _ChunkedHead.apply(hidden, weight, targets, float(temperature), bool(with_entropy), chunk)


def logprobs_from_logits(
    logits: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from whole logits [M, V]: the plain definition that the chunked path is tested against."""
    logp = torch.log_softmax(_at_least_float32(logits) / temperature, dim=-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(dim=-1)


class _ChunkedHead(torch.autograd.Function):
    """Forward keeps the log-normaliser and the entropy per token; backward makes each chunk's logits again.

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
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        head = weight.to(hidden.dtype)
        count = hidden.shape[0]
        logp = torch.empty(count, dtype=_wide(hidden.dtype), device=hidden.device)
        log_z = torch.empty_like(logp)
        entropy = torch.zeros_like(logp)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, count, chunk):
                part = slice(start, start + chunk)
                logits = _logits(hidden[part], head, temperature)
                log_z[part] = torch.logsumexp(logits, dim=-1)
                logp[part] = logits.gather(-1, targets[part, None])[:, 0] - log_z[part]
                if with_entropy:
                    entropy[part] = _entropy(logits.sub_(log_z[part, None]))
        ctx.save_for_backward(hidden, weight, targets, log_z, entropy)
        ctx.temperature, ctx.chunk, ctx.with_entropy = temperature, chunk, with_entropy
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        grad_logp, grad_entropy = grads
        hidden, weight, targets, log_z, entropy = ctx.saved_tensors
        head = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None  # stays None for a frozen head: it is as large as the head itself
        if ctx.needs_input_grad[1]:
            # Accumulated in float32: a bfloat16 sum over thousands of tokens would lose small gradients.
            grad_weight = torch.zeros(weight.shape, dtype=_wide(hidden.dtype), device=weight.device)
        entropy_has_gradient = ctx.with_entropy and bool((grad_entropy != 0).any())
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], ctx.chunk):
                part = slice(start, start + ctx.chunk)
                logp = _logits(hidden[part], head, ctx.temperature).sub_(log_z[part, None])
                if entropy_has_gradient:
                    # d logp_y / d logit_v = [v = y] - p_v;  d H / d logit_v = -p_v (log p_v + H)
                    slope = (logp + entropy[part, None]).mul_(-grad_entropy[part, None]).sub_(grad_logp[part, None])
                    grad_logits = logp.exp_().mul_(slope)
                else:
                    grad_logits = logp.exp_().mul_(-grad_logp[part, None])
                rows = torch.arange(grad_logits.shape[0], device=hidden.device)
                grad_logits[rows, targets[part]] += grad_logp[part]
                grad_logits = grad_logits.div_(ctx.temperature).to(hidden.dtype)
                grad_hidden[part] = grad_logits @ head
                if grad_weight is None:
                    continue
                if grad_weight.dtype == hidden.dtype:
                    grad_weight.addmm_(grad_logits.T, hidden[part])
                else:
                    grad_weight += grad_logits.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The format in which probabilities are computed: float32, or float64 for float64 states."""
    return torch.promote_types(dtype, torch.float32)


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(_wide(values.dtype))


def _logits(hidden: torch.Tensor, head: torch.Tensor, temperature: float) -> torch.Tensor:
    logits = _at_least_float32(hidden @ head.T)
    return logits if temperature == 1.0 else logits.div_(temperature)


def _entropy(logp: torch.Tensor) -> torch.Tensor:
    """H = -sum_v p_v log p_v; log Z - sum_v p_v logit_v would lose digits where logits are large."""
    return -logp.exp().mul_(logp).sum(dim=-1)
