"""What a verdict is made of: means over seeds with 95 % intervals, preconditions, and whether a claim holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from r1zero.lab.report.runs import Run

# Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1, and of the normal distribution.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
NORMAL95 = 1.959964

EXPLORATORY = 100
"""Seeds from here on are for choosing sizes: no verdict counts them, so a choice can't be judged on its own runs."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval (Student's t); the bounds are infinite for one seed."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0

    def within(self, low: float, high: float) -> Interval:
        """The part that a quantity can take, such as [0, 1] of a share; few seeds reach beyond."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def text(self, pattern: str = "+.3f") -> str:
        """Mean [low, high] (n seeds)."""
        if self.seeds == 0:
            return "nan"
        if self.seeds == 1:
            return f"{self.mean:{pattern}} (1 seed)"
        return f"{self.mean:{pattern}} [{self.low:{pattern}}, {self.high:{pattern}}] ({self.seeds} seeds)"


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of values that each come from one seed."""
    values = [v for v in values if v == v]
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = sum(values) / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = student95(n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def student95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t; beyond the table by the first terms of its expansion in 1 / freedom."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = NORMAL95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Need:
    """What must hold of the runs before a claim can be judged by them.

    Attributes:
        what: the figure.
        found: its mean over seeds.
        low: the mean must be at least this.
        high: and at most this.
        pattern: how the figure is written.
        whole: the whole interval must lie within the bounds, not its mean alone.
    """

    what: str
    found: Interval
    low: float = -math.inf
    high: float = math.inf
    pattern: str = ".2f"
    whole: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure lies within the bounds; what was not measured does not."""
        least, most = (self.found.low, self.found.high) if self.whole else (self.found.mean, self.found.mean)
        return self.low <= least and most <= self.high

    @property
    def text(self) -> str:
        """The figure with its interval and what is asked of it."""
        bounds = [f"at least {self.low:{self.pattern}}"] if self.low > -math.inf else []
        bounds += [f"at most {self.high:{self.pattern}}"] if self.high < math.inf else []
        found = self.found.text(self.pattern) if self.found.seeds else "not measured"
        return f"{self.what} {found}, asked: {'all of it ' if self.whole else ''}{' and '.join(bounds)}"


@dataclass(frozen=True)
class Verdict:
    """One row of the verdict table. ``holds`` is None where the runs are too few to say."""

    key: str
    claim: str
    paper: str
    measured: str
    holds: bool | None
    note: str = ""
    needs: tuple[Need, ...] = ()
    turns: str = ""
    """What would change the verdict."""
    seeds: int = 0
    """Seeds that the measurement rests on."""
    planned: int = 0
    """Seeds that were planned before the runs."""

    @property
    def unmet(self) -> list[Need]:
        """Preconditions that do not hold."""
        return [need for need in self.needs if not need.met]

    @property
    def word(self) -> str:
        """Holds, does not hold, or not testable here."""
        if self.holds is None or self.unmet:
            return "not testable here"
        return "holds" if self.holds else "does not hold"

    @property
    def exploratory(self) -> bool:
        """Whether fewer seeds ran than were planned: such a verdict may still turn."""
        return 0 < self.seeds < self.planned

    @property
    def why(self) -> str:
        """Why it is not testable, or that it is exploratory; nothing for a verdict proper."""
        if self.unmet:
            return "; ".join(need.text for need in self.unmet)
        if self.seeds == 0:
            return "no runs"
        if self.holds is None:
            return "one seed has no interval" if self.seeds == 1 else "the interval is too wide to say"
        return f"exploratory: {self.seeds} of {self.planned} planned seeds" if self.exploratory else ""


Figure = Callable[[Run], float]


def last(metric: str) -> Figure:
    """The last evaluation's value of a metric."""
    return lambda run: _at(run, metric, -1)


def first(metric: str) -> Figure:
    """The first evaluation's value of a metric: the base model's."""
    return lambda run: _at(run, metric, 0)


def gain(metric: str) -> Figure:
    """Last minus first."""
    return lambda run: _at(run, metric, -1) - _at(run, metric, 0)


def start(column: str) -> Figure:
    """A training figure at the first rollout step, the base model's."""
    return lambda run: next((value for _, value in run.series(column)), math.nan)


def signal(run: Run) -> float:
    """Share of groups at the first rollout step whose rewards differ: only those teach anything."""
    return 1.0 - start("group/zero_advantage_frac")(run)


def mean_of(column: str) -> Figure:
    """Mean of a training figure over the run."""

    def figure(run: Run) -> float:
        values = [value for _, value in run.series(column)]
        return sum(values) / len(values) if values else math.nan

    return figure


def _at(run: Run, metric: str, which: int) -> float:
    values = run.evaluation(metric)
    return values[which][1] if values else math.nan


class Runs:
    """Finished runs of the miniature, found by what they vary."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = [run for run in runs if run.state == "finished" and run.seed < EXPLORATORY]

    def by_seed(
        self, figure: Figure, *, algo: str = "drgrpo", model: str = "tiny", template: str = "question",
        data: str = "arithmetic",
    ) -> dict[int, float]:  # fmt: skip
        """{seed: figure} of the runs of one recipe."""
        wanted = (algo, model, template, data)
        return {run.seed: figure(run) for run in self.runs if run.recipe == wanted}


def paired(a: dict[int, float], b: dict[int, float]) -> Interval:
    """Interval of a - b over the seeds that both have."""
    return interval([a[seed] - b[seed] for seed in sorted(set(a) & set(b))])


def against(a: dict[int, float], b: dict[int, float], sign: int = 1) -> bool | None:
    """Whether sign * (a - b) is above 0 with its whole interval; None below two common seeds."""
    found = paired(a, b)
    if found.seeds < 2:
        return None
    return found.low > 0 if sign > 0 else found.high < 0
