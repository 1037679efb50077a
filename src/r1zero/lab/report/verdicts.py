"""The paper's claims as measured in miniature: a mean over seeds, its 95 % interval, and whether the claim holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from r1zero.lab.report.runs import Run

# Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1, and of the normal distribution.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
NORMAL95 = 1.959964

ACCURACY_MARGIN = 0.05
"""Claim (a): accuracies that differ by less are alike."""

STATES = ("tiny_llama", "tiny_llama_web", "tiny_llama_qa")
"""Claim (e): the base, pretrained further on web-like text, and that on question-answer text; each from the last."""


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
class Verdict:
    """One row of the verdict table. ``holds`` is None where there are too few runs to say."""

    key: str
    claim: str
    paper: str
    measured: str
    holds: bool | None
    note: str = ""

    @property
    def word(self) -> str:
        """Holds, does not hold, or not enough runs."""
        return "not enough runs" if self.holds is None else "holds" if self.holds else "does not hold"


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
        self.runs = [run for run in runs if run.state == "finished"]

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


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Claims (a) to (g) from the runs of the miniature."""
    of = Runs(runs)
    found = [
        _alike(of),
        _longer(of),
        _cause(of),
        _difficulty(of),
        _starts_low(of),
        _rebuilt(of),
        _ceiling(of),
        *_other_sets(of),
        _control(of),
    ]
    return [_told(v) for v in found]


def _told(verdict: Verdict) -> Verdict:
    """The verdict without figures that there are no runs for; a note that lacks some leaves the measurement alone."""
    if "nan" in verdict.measured:
        return replace(verdict, measured="no runs", note="")
    return replace(verdict, note="") if "nan" in verdict.note else verdict


def _alike(of: Runs) -> Verdict:
    found = paired(of.by_seed(last("accuracy"), algo="grpo"), of.by_seed(last("accuracy")))
    holds = None if found.seeds < 2 else abs(found.mean) <= ACCURACY_MARGIN
    if holds and max(-found.low, found.high) > ACCURACY_MARGIN:
        holds = None  # near each other by chance, perhaps: so few seeds can't tell
    return Verdict(
        "a",
        "GRPO and Dr. GRPO reach like accuracy",
        "Fig. 5: the curves lie on each other",
        f"GRPO - Dr. GRPO: {found.text()}",
        holds,
        f"alike means within {ACCURACY_MARGIN}",
    )


def _longer(of: Runs) -> Verdict:
    grpo, drgrpo = (of.by_seed(last("length_incorrect"), algo=a) for a in ("grpo", "drgrpo"))
    start = interval(list(of.by_seed(first("length_incorrect")).values()))
    found = paired(grpo, drgrpo)
    return Verdict(
        "b",
        "GRPO's wrong answers end longer than Dr. GRPO's",
        "Fig. 5: they keep growing under GRPO alone",
        f"{found.text('+.1f')} tokens",
        against(grpo, drgrpo),
        f"from {start.mean:.1f} tokens to {interval(list(grpo.values())).mean:.1f} under GRPO and "
        f"{interval(list(drgrpo.values())).mean:.1f} under Dr. GRPO",
    )


def _cause(of: Runs) -> Verdict:
    length = {a: of.by_seed(last("length_incorrect"), algo=a) for a in
              ("grpo", "grpo_no_std_norm", "grpo_no_length_norm", "drgrpo")}  # fmt: skip
    seeds = sorted(set.intersection(*(set(values) for values in length.values())))

    def effect(on: tuple[str, str], off: tuple[str, str]) -> Interval:
        return interval([sum(length[a][s] for a in on) / 2 - sum(length[a][s] for a in off) / 2 for s in seeds])

    by_length = effect(("grpo", "grpo_no_std_norm"), ("grpo_no_length_norm", "drgrpo"))
    by_std = effect(("grpo", "grpo_no_length_norm"), ("grpo_no_std_norm", "drgrpo"))
    holds = None if len(seeds) < 2 else by_length.above_zero and by_length.low > by_std.high
    return Verdict(
        "b'",
        "The growth comes from length normalisation, not from std normalisation",
        "Fig. 8",
        f"effect of length norm. {by_length.text('+.1f')} tokens; of std norm. {by_std.text('+.1f')}",
        holds,
        "main effects of the 2 x 2 ablation on the length of wrong answers",
    )


def _difficulty(of: Runs) -> Verdict:
    pairs = (("grpo", "grpo_no_std_norm"), ("grpo_no_length_norm", "drgrpo"))
    shifts: list[Interval] = []
    for normed, plain in pairs:
        shifts.append(
            paired(
                of.by_seed(mean_of(f"bias/extreme_share/{normed}")), of.by_seed(mean_of(f"bias/extreme_share/{plain}"))
            )
        )
    holds = None if min(s.seeds for s in shifts) < 2 else all(s.above_zero for s in shifts)
    return Verdict(
        "c",
        "Std normalisation moves weight to very easy and very hard questions",
        "section 3.1: question-level difficulty bias",
        f"share of all pull, with length norm. {shifts[0].text()}; without {shifts[1].text()}",
        holds,
        "questions with a success rate up to 0.25 or from 0.75; measured on the very same rollouts",
    )


def _starts_low(of: Runs) -> Verdict:
    r1, matched = of.by_seed(first("accuracy"), template="r1"), of.by_seed(first("accuracy"))
    found = paired(r1, matched)
    return Verdict(
        "d",
        "The R1 template, which does not fit the base, starts low",
        "Table 1: 61.8 without a template, 21.2 with R1 (MATH500, 1.5B)",
        f"R1 - matching template before RL: {found.text()}",
        against(r1, matched, -1),
        f"{interval(list(r1.values())).mean:.2f} against {interval(list(matched.values())).mean:.2f}",
    )


def _rebuilt(of: Runs) -> Verdict:
    found = interval(list(of.by_seed(gain("accuracy"), template="r1").values()))
    end, matched = of.by_seed(last("accuracy"), template="r1"), of.by_seed(last("accuracy"))
    left = paired(end, matched)
    return Verdict(
        "d'",
        "RL rebuilds the ability under the R1 template",
        "Fig. 6",
        f"gain {found.text()}",
        None if found.seeds < 2 else found.above_zero,
        f"ends at {interval(list(end.values())).mean:.2f}; {left.text()} to the matching template",
    )


def _ceiling(of: Runs) -> Verdict:
    ends, starts = (
        [of.by_seed(at("accuracy"), model=model, template="r1") for model in STATES] for at in (last, first)
    )
    web, qa = paired(ends[1], ends[0]), paired(ends[2], ends[1])
    steps = [against(ends[1], ends[0]), against(ends[2], ends[1])]
    ways = ", ".join(
        f"{name} {interval(list(start.values())).mean:.2f} to {interval(list(end.values())).mean:.2f}"
        for name, start, end in zip(("without", "web-like", "question-answer"), starts, ends, strict=True)
    )
    return Verdict(
        "e",
        "A better pretrained base has the higher RL ceiling",
        "Fig. 7: Llama < FineMath < NuminaQA",
        f"after RL, web-like text - none: {web.text()}; question-answer text - web-like text: {qa.text()}",
        None if None in steps else all(steps),
        f"R1 template, further pretraining {ways}",
    )


def _other_sets(of: Runs) -> list[Verdict]:
    out = []
    for data, what in (
        ("arithmetic_chains", "longer sums"),
        ("arithmetic_words", "word problems"),
        ("arithmetic_products", "sums with products"),
    ):
        found = interval(list(of.by_seed(gain("accuracy"), data=data).values()))
        reward = interval(list(of.by_seed(mean_of("reward/mean"), data=data).values()))
        out.append(
            Verdict(
                "f",
                f"A matched template is lifted by an out-of-distribution question set: {what}",
                "Fig. 6: GSM8K is enough with a matching template",
                f"gain on the held-out sums {found.text()}",
                None if found.seeds < 2 else found.above_zero,
                f"mean training reward on that set {reward.mean:.2f}",
            )
        )
    return out


def _control(of: Runs) -> Verdict:
    grpo, drgrpo = (of.by_seed(last("length_incorrect"), algo=a, model="tiny_control") for a in ("grpo", "drgrpo"))
    start = interval(list(of.by_seed(first("length_incorrect"), model="tiny_control").values()))
    found = paired(grpo, drgrpo)
    main = paired(of.by_seed(last("length_incorrect"), algo="grpo"), of.by_seed(last("length_incorrect")))
    # A control says something only where the effect shows without it.
    shows = main.above_zero and not found.above_zero and found.mean < main.low / 2
    holds = None if found.seeds < 2 or main.seeds < 2 else shows
    return Verdict(
        "g",
        "Control: where hesitations do not tell right from wrong, the length bias does not act",
        "not in the paper; it bounds its claim",
        f"GRPO - Dr. GRPO, wrong answers: {found.text('+.1f')} tokens",
        holds,
        f"from {start.mean:.1f} tokens to {interval(list(grpo.values())).mean:.1f} under GRPO; within a group "
        "advantages add up to zero, so pushes on a length chosen blindly cancel",
    )
