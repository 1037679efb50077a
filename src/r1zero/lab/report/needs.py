"""Preconditions of the claims: where they do not hold, runs say nothing about a claim, whatever they end at."""

from __future__ import annotations

from r1zero.lab.report.verdicts import Figure, Interval, Need, Runs, first, interval, signal, start

REWARD, SIGNAL, ACCURACY = 0.2, 0.3, (0.2, 0.8)
"""Preconditions: training reward and share of groups with a signal at step 0, accuracy of the base."""


def learnable(of: Runs, where: str = "", **recipe: str) -> tuple[Need, ...]:
    """What RL needs to say anything: right answers to learn from, groups that differ, and room above and below.

    Args:
        of: the runs.
        where: which of them, for a reader.
        recipe: which of them.
    """
    place = f" ({where})" if where else ""
    return (
        Need(f"training reward at step 0{place}", over(of, start("reward/mean"), **recipe), low=REWARD),
        teaches(of, where, **recipe),
        Need(f"accuracy of the base{place}", over(of, first("accuracy"), **recipe), *ACCURACY),
    )


def teaches(of: Runs, where: str = "", **recipe: str) -> Need:
    """Enough groups with a signal."""
    place = f" ({where})" if where else ""
    return Need(f"groups with a signal at step 0{place}", over(of, signal, **recipe), low=SIGNAL)


def over(of: Runs, figure: Figure, **recipe: str) -> Interval:
    """A figure of one recipe over its seeds."""
    return interval(list(of.by_seed(figure, **recipe).values()))
