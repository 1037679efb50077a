"""docs/results/power.md: the rule, and what experiments could have seen, worked out again from their own pages."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from r1zero.lab.report.verdicts import NORMAL95, student95
from run_support import documented_rows

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGE = DOCS / "results" / "power.md"
POWER = PAGE.read_text()
NUMBER = r"([+-]?\d+(?:\.\d+)?)"
INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
SOURCES = {
    "objectives": DOCS / "algorithms" / "bias.md",
    "ideas": DOCS / "ideas" / "index.md",
    "near_zero": DOCS / "results" / "near_zero.md",
    "real": DOCS / "results" / "real.md",
}


def chance(effect: float, n: int) -> float:
    """Of an interval without 0, for an effect in standard deviations: the noncentral t, integrated over chi."""
    nu, t, step = n - 1, student95(n - 1), 1e-3
    log = (nu / 2) * math.log(nu / 2) - math.lgamma(nu / 2) + math.log(2)  # density of u = sqrt(chi2 / nu)
    normal = lambda x: 0.5 * math.erfc(-x / math.sqrt(2))  # noqa: E731
    total = 0.0
    for i in range(1, 6000):
        u = i * step
        density = math.exp(log + (nu - 1) * math.log(u) - nu * u * u / 2)
        away = effect * math.sqrt(n)
        total += density * step * (normal(away - t * u) + normal(-away - t * u))
    return total


def factor(n: int) -> float:
    """Smallest effect in standard deviations that n seeds find with a chance of 80 %."""
    low, high = 0.0, 30.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle, n) < 0.8 else (low, middle)
    return high


def half(low: str, high: str) -> float:
    return (float(high) - float(low)) / 2


def two_digits(value: float) -> str:
    return f"{value:#.2g}".rstrip(".")


def test_the_rule() -> None:
    lines = [line for line in POWER.splitlines() if line.startswith(("| seeds |", "| smallest effect, in s |"))]
    seeds, effects = ([float(cell) for cell in line.strip("| ").split("|")[1:]] for line in lines)
    for n, said in zip(seeds, effects, strict=True):
        assert factor(int(n)) == pytest.approx(said, abs=0.05)


THREE_SEEDS = documented_rows(PAGE, "| experiment | figure | seen |")


@pytest.mark.parametrize("row", THREE_SEEDS, ids=lambda row: " ".join(row[:2]))
def test_what_three_seeds_could_have_seen(row: list[str]) -> None:
    """The interval is one of its page; s is half of it times sqrt(n) / t, the effect s by the rule."""
    name, figure, seen, s, effect = row
    found = INTERVAL.fullmatch(seen)
    assert found
    first = f"| {figure.rpartition(', ')[0]} |"
    lines = [line for line in SOURCES[name.strip("`")].read_text().splitlines() if line.startswith(first)]
    assert any(seen in line for line in lines)
    spread = half(found[2], found[3]) * math.sqrt(3) / student95(2)
    assert (s, effect) == (two_digits(spread), two_digits(factor(3) * spread))


@pytest.mark.parametrize("row", documented_rows(PAGE, "| `real` | seen |"), ids=lambda row: row[0])
def test_what_the_real_model_could_have_seen(row: list[str]) -> None:
    """Intervals over questions: a normal error of half the interval / 1.96, found with 80 % at 1.96 + 0.84 of it."""
    figure, seen, error, effect = row
    found = INTERVAL.fullmatch(seen)
    assert found
    words = ("points ", "")  # "+1.2 points [-0.5, +2.8]" in a sentence, without the word in a table
    assert any(seen.replace(" [", f" {word}[") in SOURCES["real"].read_text() for word in words), figure
    deviation = half(found[2], found[3]) / NORMAL95
    assert (error, effect) == (two_digits(deviation), two_digits((NORMAL95 + 0.8416) * deviation))
