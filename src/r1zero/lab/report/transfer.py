"""Claims (e) and (f): what the base knows decides how high RL climbs; simple questions lift harder ones."""

from __future__ import annotations

import math

from r1zero.lab.report.needs import learnable, over, teaches
from r1zero.lab.report.runs import Run
from r1zero.lab.report.verdicts import Figure, Need, Runs, Verdict, against, first, gain, interval, last, paired

KNOWLEDGE = {"plain": "tiny_plain", "web": "tiny_web", "pairs": "tiny_qa"}
"""Claim (e): forms without sums; that pretrained further on web-like text; that on pairs without a template."""

COVERAGE_BASE = "tiny_terms"
"""Claim (f): the base that was made from sums of 2 to 6 terms and some in words."""

WIDE, NARROW = "arithmetic_wide", "arithmetic_narrow"
"""Claim (f): question sets that cover the benchmark, and ones much simpler than it."""


def steps_to(accuracy: float) -> Figure:
    """Rollout step of the first evaluation that reaches an accuracy; NaN where none does."""

    def figure(run: Run) -> float:
        return next((step for step, value in run.evaluation("accuracy") if value >= accuracy), math.nan)

    return figure


def knowledge(of: Runs) -> Verdict:
    """(e): Fig. 7."""
    recipes = {name: {"model": model, "template": "r1"} for name, model in KNOWLEDGE.items()}
    begins, ends = ({n: of.by_seed(f("accuracy"), **r) for n, r in recipes.items()} for f in (first, last))
    web, qa = paired(ends["web"], ends["plain"]), paired(ends["pairs"], ends["web"])
    steps = [against(ends["web"], ends["plain"]), against(ends["pairs"], ends["web"])]
    means = {name: interval(list(end.values())).mean for name, end in ends.items()}
    ceiling = max((mean for mean in means.values() if mean == mean), default=math.nan)
    ways = []
    for name, recipe in recipes.items():
        half = over(of, steps_to(ceiling / 2), **recipe)
        when = f"half the ceiling at step {half.mean:.0f}" if half.seeds else "half the ceiling never"
        start, gained = over(of, first("accuracy"), **recipe), over(of, gain("accuracy"), **recipe)
        ways.append(f"{name} {start.mean:.3f} to {means[name]:.3f} (gain {gained.text()}), {when}")
    return Verdict(
        "e",
        "A better pretrained base has the higher RL ceiling, wherever it starts",
        "Fig. 7: Llama < FineMath < NuminaQA, which starts lowest",
        f"after RL, web - plain: {web.text()}; pairs - web: {qa.text()}",
        None if None in steps else all(steps),
        f"R1 template; {'; '.join(ways)}",
        (
            *(teaches(of, name, **recipes[name]) for name in ("web", "pairs")),
            # The paper's NuminaQA starts lowest.
            Need("accuracy before RL, pairs - web", paired(begins["pairs"], begins["web"]), high=0.0, pattern="+.3f"),
        ),
        "one of the two intervals reaching 0",
        min(web.seeds, qa.seeds),
        3,
    )


def coverage(of: Runs) -> Verdict:
    """(f): the interaction of template and question set in Fig. 6."""

    def gains(template: str, data: str) -> dict[int, float]:
        return of.by_seed(gain("accuracy"), model=COVERAGE_BASE, template=template, data=data)

    cells = {(t, d): gains(t, d) for t in ("r1", "question") for d in (WIDE, NARROW)}
    seeds = sorted(set.intersection(*(set(values) for values in cells.values())))
    effect = {
        t: {s: cells[t, WIDE][s] - cells[t, NARROW][s] for s in seeds} for t in ("r1", "question")
    }  # what coverage is worth
    found = paired(effect["r1"], effect["question"])
    narrow = interval(list(cells["question", NARROW].values()))
    each = ", ".join(
        f"{'R1' if t == 'r1' else 'matching'} {'wide' if d == WIDE else 'narrow'} {interval(list(v.values())).text()}"
        for (t, d), v in cells.items()
    )
    return Verdict(
        "f",
        "Simpler questions lift harder ones under a matching template; a template that does not fit needs coverage",
        "Fig. 6: GSM8K is enough with a matching template alone",
        f"what coverage is worth, R1 - matching: {found.text()}; gain of simple questions, matching: {narrow.text()}",
        None if found.seeds < 2 else found.above_zero and narrow.above_zero,
        f"gains on held-out sums of 4 terms: {each}",
        (
            *learnable(of, "matching, narrow", model=COVERAGE_BASE, data=NARROW),
            *(teaches(of, f"R1, {d.removeprefix('arithmetic_')}", model=COVERAGE_BASE, template="r1", data=d)
              for d in (WIDE, NARROW)),
        ),
        "one of the two intervals reaching 0",
        len(seeds),
        5,
    )  # fmt: skip
