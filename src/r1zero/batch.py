"""What flows through a rollout step, and the legend of shapes used in every docstring.

Shapes
    P  questions of this rank in one rollout step        G  responses per question
    N  responses of this rank, N = P * G, grouped by *index*: response i answers question i // G
    B  responses per optimizer step over all ranks        T  generated tokens, stop tokens included
    S  tokens of prompt and response together             V  vocabulary, H  hidden width
"""

from __future__ import annotations

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
    the response when the template asks for it, and never an EOS token.
    """

    ids: list[int]
    text: str
    finish_reason: str
    logprobs: list[float] | None = None

    @property
    def truncated(self) -> bool:
        """Whether the token limit cut this response."""
        return self.finish_reason == "length"


@dataclass
class RolloutBatch:
    """The responses of one rollout step on this rank, in group order, with what was decided on them.

    ``rewards``, ``advantages`` are float32 [N] on the CPU; ``keep`` is bool [N] and False for the
    responses that the loss leaves out (they still count in B). ``version`` is the policy version that
    sampled them. ``grades`` holds one ``reward.Outcome`` a response, ``metrics`` the step's figures so far.
    ``credit`` holds each response's token weights, float32 [T_i], or None where all tokens count alike.
    """

    completions: list[Completion]
    group_size: int
    version: int
    rewards: torch.Tensor
    advantages: torch.Tensor
    keep: torch.Tensor
    grades: list[Any] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    credit: list[torch.Tensor] | None = None


@dataclass
class PromptBatch:
    """One Lightning batch: the questions of one rollout step; the RolloutCallback fills ``rollout``."""

    step: int
    epoch: int
    prompts: list[Prompt]
    rollout: RolloutBatch | None = None
