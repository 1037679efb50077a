r"""The formulas of the loss; ``objective.py`` composes them, and one of them is where GRPO and Dr. GRPO differ.

With a ratio rho_it and an advantage A_it, each generated token has a loss

    clip = ppo       l_it = -min( rho_it A_it,  clip(rho_it, 1 - eps_low, 1 + eps_high) A_it )
    clip = weight    l_it = -sg( clip(rho_it, 1 - eps_low, 1 + eps_high) ) A_it logp_new_it        sg: no gradient
    clip = none      l_it = -rho_it A_it,  or with ratio = none  -A_it logp_new_it

where rho_it is

    ratio = token             exp(logp_new_it - logp_old_it)
    ratio = sequence          s_i = exp( 1/T_i sum_t (logp_new_it - logp_old_it) ), the same for all tokens
    ratio = sequence_token    sg(s_i) exp(logp_new_it - sg(logp_new_it)): the value s_i, the gradient of one token

and one optimizer step over B responses minimises

    GRPO      L = 1/B sum_i  1/T_i  sum_t l_it        length_norm = response
                             ^^^^^ a wrong answer is punished less per token the longer it is
    Dr. GRPO  L = 1/B sum_i  1/C    sum_t l_it        length_norm = constant
                             ^^^   one constant for every response: unbiased
    DAPO      L = sum_i sum_t l_it / sum_i T_i        length_norm = token

The second difference, dividing the advantage by the group's standard deviation, is in ``advantages.py``.

B, and the token count of DAPO, are counted over the whole optimizer step on all ranks and passed in,
so the result does not depend on how responses are split into micro-batches or ranks (semantics 5).
"""

from __future__ import annotations

import torch


def clipped_surrogate(
    new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, *, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token losses l_it of PPO's clipped surrogate (semantics 3).

    Args:
        new: log-probabilities of the sampled tokens under the policy, nats, float32 [n, T].
        old: the same under the policy before the first update of this rollout step, no gradient, [n, T].
        advantages: [n, T], or [n, 1] for one advantage per response.
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: the ratio is clipped above 1 + clip_high.

    Returns:
        token losses [n, T] with gradient to ``new``; ratios [n, T]; and a bool [n, T], True where the
        clip is active, that is where the token has no gradient.
    """
    ratio = torch.exp(new - old)
    plain = ratio * advantages
    clipped = torch.clamp(ratio, 1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(plain, clipped), ratio.detach(), (clipped < plain).detach()


def log_ratio(new: torch.Tensor, old: torch.Tensor, mask: torch.Tensor, kind: str) -> torch.Tensor:
    """Logarithm of the ratio of new to old policy at each token.

    Args:
        new: log-probabilities under the policy, nats, [n, T].
        old: under the policy before the first update of this rollout step, no gradient, [n, T].
        mask: bool [n, T], the tokens that the mean of a sequence is taken over.
        kind: "token"; "sequence", the geometric mean over a response (GSPO eq. 7); or "sequence_token", the same
            value with the gradient of the token alone (GSPO eq. 14).

    Returns:
        [n, T], nats, with gradient to ``new``; [n, 1] for "sequence".
    """
    delta = new - old
    if kind == "token":
        return delta
    kept = torch.where(mask, delta, torch.zeros_like(delta))
    mean = kept.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    if kind == "sequence":
        return mean
    if kind == "sequence_token":
        return new - new.detach() + mean.detach()  # in this order the difference is exactly 0
    raise ValueError(f"unknown ratio {kind!r}; choose token, sequence or sequence_token")


def unclipped_surrogate(log_ratios: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """Token losses -rho_it A_it, [n, T]: an importance-weighted policy gradient without a bound."""
    return -torch.exp(log_ratios) * advantages


def weighted_logprob(
    new: torch.Tensor, log_ratios: torch.Tensor, advantages: torch.Tensor, *, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token losses of CISPO: the log-probability, weighted by a clipped ratio without gradient (MiniMax-M1 eq. 4, 5).

    A token whose ratio is out of bounds keeps a gradient, with the bounded weight; PPO's clip takes it away.

    Args:
        new: log-probabilities under the policy, [n, T].
        log_ratios: of :func:`log_ratio`, [n, T] or [n, 1].
        advantages: [n, T].
        clip_low: weights are at least 1 - clip_low; at 1 there is no lower bound.
        clip_high: weights are at most 1 + clip_high.

    Returns:
        token losses [n, T] with gradient to ``new``; and a bool [n, T], True where the weight is bounded.
    """
    ratio = torch.exp(log_ratios.detach())
    weight = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
    return -weight * advantages * new, (weight != ratio).expand_as(new)


def kl_penalty(new: torch.Tensor, ref: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) from the sampled token (semantics 8).

    With d = ref - new: k1 = -d (unbiased, may be negative), k2 = d^2 / 2, k3 = exp(d) - 1 - d (unbiased, >= 0).

    Args:
        new: policy log-probabilities [n, T].
        ref: reference log-probabilities [n, T], no gradient.
        estimator: "k1", "k2" or "k3".

    Returns:
        [n, T], nats.
    """
    delta = ref - new
    if estimator == "k1":
        return -delta
    if estimator == "k2":
        return delta.square() / 2
    if estimator == "k3":
        return torch.expm1(delta) - delta
    raise ValueError(f"unknown KL estimator {estimator!r}; choose k1, k2 or k3")


def aggregate(
    token_values: torch.Tensor,
    mask: torch.Tensor,
    *,
    length_norm: str,
    constant: float,
    num_responses: int,
    num_tokens: int,
) -> torch.Tensor:
    """Sum token values into this micro-batch's share of the optimizer step's loss (semantics 4).

    Args:
        token_values: [n, T].
        mask: bool [n, T], True on generated tokens (stop tokens included) of responses that are trained on.
        length_norm: "response", "constant" or "token".
        constant: C of Dr. GRPO, in tokens.
        num_responses: B, responses of the whole optimizer step over all ranks; counts left-out ones too.
        num_tokens: generated tokens of the whole optimizer step over all ranks ("token" only).

    Returns:
        scalar; the shares of all micro-batches and ranks add up to L.
    """
    per_response = torch.where(mask, token_values, torch.zeros_like(token_values)).sum(dim=1)
    if length_norm == "response":
        return (per_response / mask.sum(dim=1).clamp(min=1)).sum() / num_responses
    if length_norm == "constant":
        return per_response.sum() / constant / num_responses
    if length_norm == "token":
        return per_response.sum() / max(num_tokens, 1)
    raise ValueError(f"unknown length_norm {length_norm!r}; choose response, constant or token")


def sampler_weight(old: torch.Tensor, sampler: torch.Tensor, cap: float) -> torch.Tensor:
    """Truncated importance weight min(exp(logp_old - logp_sampler), cap) per token (semantics 7).

    Per token, not per response: a product over thousands of tokens drops long responses (trap 23).
    """
    return torch.exp(old - sampler).clamp(max=cap)
