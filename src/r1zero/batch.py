"""What flows through a rollout step, and the legend of shapes used in every docstring.

Shapes
    P  questions of this rank in one rollout step        G  responses per question
    N  responses of this rank, N = P * G, grouped by *index*: response i answers question i // G
    B  responses per optimizer step over all ranks        T  generated tokens, stop tokens included
    S  tokens of prompt and response together             V  vocabulary, H  hidden width
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Question:
    """One row of a question set, with its gold answers already normalised (any one of them is right)."""

    text: str
    gold: tuple[str, ...]
    source: str = ""
    row: int = 0
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A question put into a template and tokenised exactly once (traps 24, 25)."""

    question: Question
    text: str
    ids: list[int]


@dataclass
class Completion:
    """One sampled response.

    ``ids`` are the sampled token ids with the stop token(s), the very ids that are trained on.
    ``logprobs`` are the sampler's log-probabilities (nats, after temperature) of those ids, or None
    where they were not asked for. ``finish_reason`` is "stop" (an EOS id or a stop string) or
    "length" (cut by the token limit: reward 0, semantics 1). ``text`` keeps a stop string that ended
    the response when the template asks for it, and never an EOS token. ``mask`` is True where the policy
    sampled the token and False where an environment put it in, as a tool's answer: the policy reads such
    tokens and is not trained on them, and what ``logprobs`` holds for them is not looked at. None: all True.
    ``whole`` are the sampler's log-probabilities of all tokens at each position, float32 [T, V], where asked for.
    """

    ids: list[int]
    text: str
    finish_reason: str
    logprobs: list[float] | None = None
    mask: list[bool] | None = None
    whole: torch.Tensor | None = None

    @property
    def truncated(self) -> bool:
        """Whether the token limit cut this response."""
        return self.finish_reason == "length"

    @property
    def length(self) -> int:
        """T: tokens that the policy sampled."""
        return len(self.ids) if self.mask is None else sum(self.mask)

    def sampled(self) -> torch.Tensor:
        """``mask`` as a tensor: bool [len(ids)].

        Raises:
            ValueError: the mask has another length than the ids.
        """
        if self.mask is None:
            return torch.ones(len(self.ids), dtype=torch.bool)
        if len(self.mask) != len(self.ids):
            raise ValueError(f"a response of {len(self.ids)} tokens has a mask of {len(self.mask)}")
        return torch.tensor(self.mask, dtype=torch.bool)


@dataclass
class Update:
    """One optimizer step.

    Attributes:
        members: numbers of its B responses over all ranks: response i of rank r is number r * N + i.
        loss: the policy's part of the loss, over all ranks.
        grad_norm: before clipping.
        lr: learning rate.
    """

    members: list[int]
    loss: float = float("nan")
    grad_norm: float = float("nan")
    lr: float = float("nan")


@dataclass
class RolloutBatch:
    """The responses of one rollout step on this rank, in group order, with what was decided on them.

    The ``Collector`` fills it from top to bottom; advantage and credit functions of your own are given it.

    Attributes:
        completions: N responses.
        group_size: G.
        version: the policy version that sampled them.
        rewards: float32 [N] on the CPU: the weighted sum of the verifier and the reward functions, with
            algo.overlong's punishment and algo.kl_in_reward's penalty in it.
        right: bool [N], the verifier's own verdict, whatever weight it has in the reward.
        mask: N rows, bool [T_i]: the tokens that are trained on. All False for a response that the loss leaves
            out (algo.truncated=exclude); it still counts in B.
        advantages: float32 [N]; NaN until they are computed.
        credit: token weights, N rows float32 [T_i]; None where all tokens of a response count alike.
        prompts: P prompts, with their questions.
        grades: N ``reward.Outcome``.
        measured: bool [N], the responses that the learner's figures are taken over; None: all.
        metrics: figures of the step so far.
        updates: the optimizer steps taken on it, in order.
        sealed: fingerprint of what the collector decided; None where no collector did.
    """

    completions: list[Completion]
    group_size: int
    version: int
    rewards: torch.Tensor
    right: torch.Tensor
    mask: list[torch.Tensor]
    advantages: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    credit: list[torch.Tensor] | None = None
    prompts: list[Prompt] = field(default_factory=list)
    grades: list[Any] = field(default_factory=list)
    measured: torch.Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    updates: list[Update] = field(default_factory=list)
    sealed: bytes | None = None

    def __post_init__(self) -> None:
        if not self.advantages.numel():
            self.advantages = torch.full((len(self.completions),), torch.nan)

    def fingerprint(self) -> bytes:
        """Of all that the loss will use, advantages, masks, credit and token ids: equal where they are."""
        digest = hashlib.sha256(self.advantages.numpy().tobytes())
        for row in (*self.mask, *(self.credit or [])):
            digest.update(row.numpy().tobytes())
        for completion in self.completions:
            digest.update(array("q", completion.ids).tobytes())
        return digest.digest()

    @property
    def groups(self) -> torch.Tensor:
        """Number of each response's group: int64 [N]."""
        return torch.arange(len(self.completions)) // self.group_size

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each response that the policy sampled: float32 [N]."""
        return torch.tensor([float(c.length) for c in self.completions])

    @property
    def truncated(self) -> torch.Tensor:
        """Responses that the token limit cut: bool [N]."""
        return torch.tensor([c.truncated for c in self.completions], dtype=torch.bool)

    @property
    def texts(self) -> list[str]:
        """Text of each response."""
        return [c.text for c in self.completions]

    @property
    def tokens(self) -> list[list[int]]:
        """Token ids of each response."""
        return [c.ids for c in self.completions]

    @property
    def questions(self) -> list[Question]:
        """The question of each response, ``meta`` and all: N of them."""
        return [self.prompts[i // self.group_size].question for i in range(len(self.completions))]


@dataclass
class PromptBatch:
    """One Lightning batch: the questions of one rollout step; the RolloutCallback fills ``rollout``."""

    step: int
    epoch: int
    prompts: list[Prompt]
    rollout: RolloutBatch | None = None
