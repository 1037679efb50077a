"""The paper's claims as the miniature tests them: (a) to (g), what each needs, and what would change its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from r1zero.lab.report import transfer
from r1zero.lab.report.needs import ACCURACY, learnable, teaches
from r1zero.lab.report.runs import Run
from r1zero.lab.report.verdicts import (
    Interval,
    Need,
    Runs,
    Verdict,
    against,
    first,
    gain,
    interval,
    last,
    mean_of,
    paired,
)

ACCURACY_MARGIN = 0.05
"""Claim (a): accuracies that differ by less are alike."""


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Claims (a) to (g) from the runs of the miniature."""
    of = Runs(runs)
    found = [
        _alike(of),
        _ahead(of),
        _longer(of),
        _cause(of),
        _difficulty(of),
        _starts_low(of),
        _rebuilt(of),
        transfer.knowledge(of),
        transfer.coverage(of),
        _control(of),
    ]
    return [_told(v) for v in found]


def _told(verdict: Verdict) -> Verdict:
    """The verdict without figures that there are no runs for; a note that lacks some leaves the measurement alone."""
    if "nan" in verdict.measured:
        return replace(verdict, measured="no runs", note="", needs=())
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
        learnable(of),
        f"a mean difference beyond {ACCURACY_MARGIN} either way; an interval that reaches beyond it leaves it open",
        found.seeds,
        5,
    )


def _ahead(of: Runs) -> Verdict:
    grpo, drgrpo = (of.by_seed(last("accuracy"), algo=a) for a in ("grpo", "drgrpo"))
    found = paired(grpo, drgrpo)
    return Verdict(
        "a'",
        "Dr. GRPO ends slightly ahead of GRPO in accuracy",
        "Fig. 8 and 9: its curves lie a little higher",
        f"GRPO - Dr. GRPO: {found.text()}",
        against(grpo, drgrpo, -1),
        f"{interval(list(grpo.values())).mean:.3f} under GRPO, "
        f"{interval(list(drgrpo.values())).mean:.3f} under Dr. GRPO",
        learnable(of),
        "an interval that reaches 0",
        found.seeds,
        5,
    )


def _longer(of: Runs) -> Verdict:
    grpo, drgrpo = (of.by_seed(last("length_incorrect"), algo=a) for a in ("grpo", "drgrpo"))
    begins = interval(list(of.by_seed(first("length_incorrect")).values()))
    found = paired(grpo, drgrpo)
    return Verdict(
        "b",
        "GRPO's wrong answers end longer than Dr. GRPO's",
        "Fig. 5: they keep growing under GRPO alone",
        f"{found.text('+.1f')} tokens",
        against(grpo, drgrpo),
        f"from {begins.mean:.1f} tokens to {interval(list(grpo.values())).mean:.1f} under GRPO and "
        f"{interval(list(drgrpo.values())).mean:.1f} under Dr. GRPO",
        learnable(of),
        "an interval that reaches 0",
        found.seeds,
        5,
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
        learnable(of),
        "an effect of length norm. whose interval reaches 0 or that of std norm.",
        len(seeds),
        3,
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
    seeds = min(s.seeds for s in shifts)
    return Verdict(
        "c",
        "Std normalisation moves weight to very easy and very hard questions",
        "section 3.1: question-level difficulty bias",
        f"share of all pull, with length norm. {shifts[0].text()}; without {shifts[1].text()}",
        None if seeds < 2 else all(s.above_zero for s in shifts),
        "questions with a success rate up to 0.25 or from 0.75; measured on the very same rollouts",
        (teaches(of),),
        "one of the two intervals reaching 0",
        seeds,
        5,
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
        (Need("accuracy of the base (matching template)", interval(list(matched.values())), *ACCURACY),),
        "an interval that reaches 0",
        found.seeds,
        5,
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
        (teaches(of, "R1 template", template="r1"),),
        "an interval that reaches 0",
        found.seeds,
        5,
    )


def _control(of: Runs) -> Verdict:
    grpo, drgrpo = (of.by_seed(last("length_incorrect"), algo=a, model="tiny_control") for a in ("grpo", "drgrpo"))
    begins = interval(list(of.by_seed(first("length_incorrect"), model="tiny_control").values()))
    found = paired(grpo, drgrpo)
    main = paired(of.by_seed(last("length_incorrect"), algo="grpo"), of.by_seed(last("length_incorrect")))
    enough = found.seeds >= 2 and main.seeds >= 2
    return Verdict(
        "g",
        "Control: where hesitations do not tell right from wrong, the length bias does not act",
        "not in the paper; it bounds its claim",
        f"GRPO - Dr. GRPO, wrong answers: {found.text('+.1f')} tokens",
        (not found.above_zero and found.mean < main.low / 2) if enough else None,
        f"from {begins.mean:.1f} tokens to {interval(list(grpo.values())).mean:.1f} under GRPO; within a group "
        "advantages add up to zero, so pushes on a length chosen blindly cancel",
        # A control says something only where the effect shows without it.
        (*learnable(of, model="tiny_control"),
         Need("the effect itself (b), tokens", main, low=0.0, pattern="+.1f", whole=True)),
        "a difference above 0, or more than half of the lower bound of (b)",
        found.seeds,
        3,
    )  # fmt: skip
