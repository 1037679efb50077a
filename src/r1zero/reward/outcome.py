"""The verdict on one response, and why (an enum instead of a bare 0 or 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Status(str, Enum):
    """What became of a response. Only ``right`` earns the verifier's reward."""

    right = "right"
    wrong = "wrong"
    no_answer = "no_answer"
    """The place of the answer is missing, empty or cut off."""
    unformatted = "unformatted"
    """The template's tags are missing, doubled or out of order."""
    truncated = "truncated"
    """The token limit cut the response: reward 0 before any grading (semantics 1)."""
    timeout = "timeout"
    """The worker ran past the deadline and was killed."""
    crash = "crash"
    """The worker died, or the grader or a reward function raised."""
    bad_gold = "bad_gold"
    """There is no gold answer to compare with."""


@dataclass(frozen=True)
class Outcome:
    """How one response was graded.

    Attributes:
        status: What became of it.
        reward: Weighted sum of the verifier's 1.0 or 0.0 and of the plug-in functions; never NaN.
        extracted: The answer that was found, None where there is none.
        rule: Name of the rule that decided, "" where none was reached.
        seconds: Time that deciding took, waiting in a queue not included.
        components: Unweighted value of every reward that was summed ("verifier" and the plug-ins);
            empty where no plug-in is configured.
        detail: What went wrong, in words, for timeouts and crashes.
        verdict: Whether the response is right where the status does not say so: it reports a reward function
            that failed beside the verifier. None: the status says it.
    """

    status: Status
    reward: float
    extracted: str | None = None
    rule: str = ""
    seconds: float = 0.0
    components: dict[str, float] = field(default_factory=dict)
    detail: str = ""
    verdict: bool | None = None

    @property
    def failed(self) -> bool:
        """Whether the verifier itself failed: the verdict says nothing about the answer."""
        return self.status in (Status.timeout, Status.crash)

    @property
    def right(self) -> bool:
        """Whether the verifier found the answer equal to a gold answer, whatever other rewards are summed.

        A question without gold answers (``data.gold=none``) has no verifier: its response is right when the
        summed reward of the functions is at least half of the sum of their positive weights.
        """
        return self.status is Status.right if self.verdict is None else self.verdict
