r"""The objective: what one optimizer step minimises, as a function of per-token values.

An objective is a function

    def my_objective(values, scale, algo, **params) -> Loss

of the log-probabilities, advantages and mask of the responses of one forward pass (:class:`TokenValues`) and of the
sizes of the whole optimizer step (:class:`Scale`). ``algo.loss`` names the built-in one, :func:`policy_gradient`, or
the import path of one of your own; ``algo.loss_params`` are its keyword arguments. The passes of an optimizer step
add up, so every denominator comes from ``scale``, never from the pass (semantics 5);
:func:`r1zero.algo.check_objective` tests that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from r1zero.algo.loss import (
    aggregate,
    clipped_surrogate,
    kl_penalty,
    log_ratio,
    sampler_weight,
    unclipped_surrogate,
    weighted_logprob,
)
from r1zero.algo_config import AlgoConfig


@dataclass(frozen=True)
class TokenValues:
    """The generated tokens of one forward pass over n responses, padded on the right to T tokens.

    Attributes:
        new: log-probabilities under the policy, nats, with gradient, [n, T].
        old: the same before the rollout step's first update, no gradient, [n, T]; ``new.detach()`` where the step is
            the only one (semantics 6).
        sampler: the sampler's, [n, T]; None where the engine gave none.
        reference: the reference model's, [n, T]; None where none is loaded (``algo.kl_coef=0``).
        entropy: of the policy at each token, nats, with gradient, [n, T].
        advantages: of each token, credit included, [n, T].
        mask: bool [n, T], True on the tokens that are trained on; what stands elsewhere is arbitrary.
    """

    new: torch.Tensor
    old: torch.Tensor
    sampler: torch.Tensor | None
    reference: torch.Tensor | None
    entropy: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Scale:
    """Sizes of the whole optimizer step, over all passes and ranks: the denominators.

    Attributes:
        num_responses: B; counts responses that are left out, too.
        num_tokens: tokens under the mask.
        constant: C of Dr. GRPO, tokens.
    """

    num_responses: int
    num_tokens: int
    constant: float


@dataclass
class Loss:
    """What an objective gives.

    Attributes:
        value: scalar with gradient; those of all passes and ranks add up to the loss of the optimizer step.
        figures: ``{name: (values [n, T], mask [n, T])}``; the learner logs the mean over the optimizer step.
        policy: the policy's part of ``value``, logged as ``loss/policy``; None: all of it.
    """

    value: torch.Tensor
    figures: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    policy: torch.Tensor | None = None


Objective = Callable[[TokenValues, Scale, AlgoConfig], Loss]


def policy_gradient(values: TokenValues, scale: Scale, algo: AlgoConfig) -> Loss:
    """Every published objective of ``conf/algo``, composed of ``ratio``, ``clip``, ``length_norm`` and extra terms.

    Semantics 3 (surrogate), 4 (aggregation), 7 (sampler correction) and 8 (KL).
    """
    losses, clipped = _surrogate(values, algo)
    if algo.sampler_correction.value == "token":
        if values.sampler is None:
            raise ValueError(
                "algo.sampler_correction=token needs the sampler's log-probabilities, and the engine gave none"
            )
        losses = losses * sampler_weight(values.old, values.sampler, algo.correction_cap)
    policy = _aggregate(losses, values, scale, algo)
    figures = {"policy/clip_frac": (clipped, values.mask)}
    total = policy
    if algo.kl_coef:
        assert values.reference is not None
        kl = kl_penalty(values.new, values.reference, algo.kl_estimator.value)
        total = total + algo.kl_coef * _aggregate(kl, values, scale, algo)
        figures["loss/kl"] = (kl, values.mask)
    if algo.entropy_coef:
        total = total - algo.entropy_coef * _aggregate(values.entropy, values, scale, algo)
    return Loss(total, figures, policy)


def _surrogate(values: TokenValues, algo: AlgoConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Token losses [n, T] and where the ratio is clipped, bool [n, T]."""
    ratio, clip = algo.ratio.value, algo.clip.value
    new, old, advantages = values.new, values.old, values.advantages
    bounds = {"clip_low": algo.clip_low, "clip_high": algo.clip_high}
    if ratio == "none":
        return -new * advantages, torch.zeros_like(values.mask)
    if ratio == "token" and clip == "ppo":
        losses, _, clipped = clipped_surrogate(new, old, advantages, **bounds)
        return losses, clipped
    ratios = log_ratio(new, old, values.mask, ratio)
    if clip == "weight":
        return weighted_logprob(new, ratios, advantages, **bounds)
    if clip == "none":
        return unclipped_surrogate(ratios, advantages), torch.zeros_like(values.mask)
    losses, _, clipped = clipped_surrogate(ratios, torch.zeros_like(ratios), advantages, **bounds)
    return losses, clipped


def _aggregate(token_values: torch.Tensor, values: TokenValues, scale: Scale, algo: AlgoConfig) -> torch.Tensor:
    return aggregate(
        token_values,
        values.mask,
        length_norm=algo.length_norm.value,
        constant=scale.constant,
        num_responses=scale.num_responses,
        num_tokens=scale.num_tokens,
    )


OBJECTIVES: dict[str, Callable[..., Loss]] = {"policy_gradient": policy_gradient}
"""What ``algo.loss`` can name."""


def moves_without_advantage(objective: Callable[..., Loss], algo: AlgoConfig) -> bool:
    """Whether a response without advantage has a gradient (semantics 10); where none has, it is not computed.

    KL and entropy terms act on every response. An objective of one's own that does so too says it with
    ``my_objective.moves_without_advantage = True``.
    """
    return bool(algo.kl_coef or algo.entropy_coef or getattr(objective, "moves_without_advantage", False))
