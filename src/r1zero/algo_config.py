"""Typed schema of the ``algo`` group: the objective and everything that decides what a response teaches."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from r1zero.ranges import ranged


class LengthNorm(str, Enum):
    """What a response's summed token loss is divided by (semantics 4)."""

    response = "response"
    constant = "constant"
    token = "token"


class Ratio(str, Enum):
    """How much likelier the policy has made a token since it was sampled: per token, per response, or not asked."""

    token = "token"
    sequence = "sequence"
    sequence_token = "sequence_token"
    none = "none"


class Clip(str, Enum):
    """What bounds that ratio (semantics 3)."""

    ppo = "ppo"
    weight = "weight"
    none = "none"


class KLEstimator(str, Enum):
    """Estimator of KL(policy || reference) from one sample per token (semantics 8)."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class Truncated(str, Enum):
    """What happens to responses cut by the token limit: trained on with reward 0, or left out of the loss."""

    zero_reward = "zero_reward"
    exclude = "exclude"


class Correction(str, Enum):
    """Correction for the difference between sampler and learner probabilities (semantics 7)."""

    auto = "auto"
    off = "off"
    token = "token"


@dataclass
class AlgoConfig:
    """The objective; GRPO and Dr. GRPO differ in ``length_norm`` and ``std_norm`` alone."""

    name: str = MISSING
    loss: str = "policy_gradient"
    """The objective: policy_gradient, composed of the values below, or the import path of a function of yours."""
    loss_params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of a function of your own."""
    ratio: Ratio = Ratio.token
    """token: new over old probability; sequence: its geometric mean over a response (GSPO); sequence_token: that
    value with the gradient of each token (GSPO-token); none: log-probabilities without a ratio (REINFORCE)."""
    clip: Clip = Clip.ppo
    """ppo: the smaller of plain and clipped gain; weight: the clipped ratio is a weight without gradient (CISPO);
    none."""
    length_norm: LengthNorm = LengthNorm.constant
    """response: GRPO's 1/T_i; constant: Dr. GRPO's 1/C; token: one mean over all tokens (DAPO)."""
    std_norm: bool = False
    """Divide the centred reward by the standard deviation of its group (advantage=group alone)."""
    norm_constant: int | None = ranged(None, at_least=1, at_most=10**8)
    """C of Dr. GRPO; null: the response-length limit, rollout.max_tokens."""
    clip_low: float = ranged(0.2, at_least=0, at_most=1)
    """Ratios below 1 - clip_low are clipped; at 1 none is."""
    clip_high: float = ranged(0.2, at_least=0, at_most=1000)
    """Ratios above 1 + clip_high are clipped (DAPO's clip-higher: 0.28)."""
    kl_coef: float = ranged(0.0, at_least=0, at_most=1000)
    """Weight of KL(policy || reference) in the loss; no reference model is loaded while this and kl_in_reward are 0."""
    kl_estimator: KLEstimator = KLEstimator.k3
    """Estimator of that KL."""
    kl_in_reward: float = ranged(0.0, at_least=0, at_most=1000)
    """Weight of KL(policy || reference) in the reward, before advantages: k1, summed over the response's tokens."""
    entropy_coef: float = ranged(0.0, at_least=-1000, at_most=1000)
    """Weight of the entropy bonus, aggregated like the policy loss."""
    minibatch_size: int = ranged(128, at_least=1, at_most=10**7)
    """B: responses per optimizer step, over all ranks."""
    inner_epochs: int = ranged(1, at_least=1, at_most=1000)
    """Passes over the responses of a rollout step."""
    truncated: Truncated = Truncated.zero_reward
    """exclude leaves responses cut by the token limit out of the loss; B still counts them."""
    sampler_correction: Correction = Correction.auto
    """token: weight each token's loss by min(exp(logp_old - logp_sampler), correction_cap); auto: off where sampler and
    learner compute in float32 and agree to 1e-6, else token."""
    correction_cap: float = ranged(2.0, above=0, at_most=10**6, note="at 0 nothing would be learned")
    """Largest weight that the sampler correction gives."""
    advantage: str = "group"
    """How rewards become advantages. group: less the group's mean, with std_norm as set; leave_one_out: less the mean
    of the others (RLOO); batch_norm: normalised over all tokens of the step (REINFORCE++); group_then_batch_norm: less
    the group's mean, then normalised so; group_mean_batch_std: less the group's mean, by the deviation of all rewards
    (Lite PPO); mean_norm: less the group's mean and divided by it (MaxRL); or the import path of a function."""
    advantage_params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of a function of your own."""
    overlong: float = ranged(0.0, at_least=0, at_most=1)
    """Last part of the response limit over which a response loses up to one point of reward, as a share of the limit
    (DAPO's soft overlong punishment: 0.2); 0: off."""
    credit: str = "uniform"
    """How an advantage is shared out over tokens: uniform, length_aware, answer_span, or an import path."""
    credit_params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the credit rule."""

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen copy of the model is loaded beside the policy."""
        return bool(self.kl_coef or self.kl_in_reward)
