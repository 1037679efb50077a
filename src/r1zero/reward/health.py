"""Whether the verifier itself works: rates of its failures, and the point at which training must stop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from r1zero.errors import UserError
from r1zero.reward.outcome import Outcome, Status

log = logging.getLogger("r1zero")

SLOW_RULES = ("math_verify", "")


class RewardError(UserError):
    """The verifier fails so often that its rewards mean nothing."""


def summarise(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Health of the verifier over some outcomes, as ``reward/...`` metrics.

    Returns:
        ``timeouts`` and ``failures`` (timeouts and crashes): shares of all outcomes. ``unparsed``: share
        without an answer to compare (missing, unformatted, cut off by the token limit or no gold).
        ``fast_path_frac``: share of the compared answers that exact rules decided without math-verify;
        1.0 where none was compared. ``seconds_p99``: 99th percentile (nearest rank) of the deciding time.
    """
    total = max(len(outcomes), 1)
    missing = (Status.no_answer, Status.unformatted, Status.truncated, Status.bad_gold)
    compared = [outcome for outcome in outcomes if outcome.status not in missing]
    fast = sum(not outcome.failed and outcome.rule not in SLOW_RULES for outcome in compared)
    seconds = sorted(outcome.seconds for outcome in outcomes)
    return {
        "timeouts": sum(outcome.status is Status.timeout for outcome in outcomes) / total,
        "failures": sum(outcome.failed for outcome in outcomes) / total,
        "unparsed": (len(outcomes) - len(compared)) / total,
        "fast_path_frac": fast / len(compared) if compared else 1.0,
        "seconds_p99": seconds[max(-(-99 * len(seconds) // 100) - 1, 0)] if seconds else 0.0,
    }


def check_health(
    outcomes: Sequence[Outcome],
    warn_above: float = 0.01,
    stop_above: float = 0.20,
    share: float | None = None,
    again: bool = False,
) -> bool:
    """Warn, or stop, when too many verdicts failed: a broken verifier is worse than none.

    Args:
        outcomes: Of one step, on this rank.
        warn_above: Share of timeouts and crashes above which a warning is given.
        stop_above: Share above which training must stop.
        share: Failed share over the outcomes of all ranks, so that all stop together; None: there is one rank.
        again: The user was warned a short while ago: the line goes to the log alone.

    Returns:
        Whether more than ``warn_above`` failed.

    Raises:
        RewardError: More than ``stop_above`` failed.
    """
    failed = [outcome for outcome in outcomes if outcome.failed]
    own = len(failed) / max(len(outcomes), 1)
    share = own if share is None else share
    if share <= warn_above:
        return False
    what = f"the verifier failed on {len(failed)} of {len(outcomes)} answers ({own:.0%})"
    if abs(share - own) > 1e-6:
        what += f", on {share:.0%} over all ranks"
    if failed:
        first = failed[0]
        what += f"; the first: {first.status.value}, {first.detail or 'no detail'}"
        what += f", answer {(first.extracted or '')[:80]!r}"
    if share > stop_above:
        raise RewardError(f"{what}; more than {stop_above:.0%} is not training: see reward.timeout, reward.memory_gib")
    log.log(logging.INFO if again else logging.WARNING, "%s", what)
    return True
