"""Speed and errors of the verifier against plain math-verify on the same pairs, in the same run.

    python scripts/benchmark_verifier.py questions.jsonl [--limit 12000] [--plain 1500]

Every gold answer of the file (field "answer") is graded against right answers in other forms and against
typical mistakes made from it. Prints grades a second of both, their ratio, the share decided without
math-verify, the 99th percentile of the deciding time, and every disagreement with the expected verdict.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path

from r1zero.config import RewardConfig
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.rules.latex import canonical
from r1zero.reward.rules.number import parse_number
from r1zero.reward.rules.structure import shape


def rewrites(gold: str) -> dict[str, str]:
    """The same answer written in other ways, by the name of the change."""
    out = {
        "stop": gold + ".",
        "dollars": f"${gold}$",
        "spaces": f"\\, {gold} \\;",
        "display": f"\\displaystyle {gold}",
    }
    if "\\frac" in gold:
        out["dfrac"] = gold.replace("\\frac", "\\dfrac")
        out["short fraction"] = re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", gold)
        out["slash"] = re.sub(r"^\\frac\{(-?\d+)\}\{(\d+)\}$", r"\1/\2", gold)
    if re.search(r"\\sqrt\{\d\}", gold):
        out["short root"] = re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", gold)
        out["square in root"] = re.sub(
            r"(?<![\d}^_])(\d)\\sqrt\{(\d+)\}", lambda m: f"\\sqrt{{{int(m[1]) ** 2 * int(m[2])}}}", gold
        )
    if "(" in gold and "\\left" not in gold:
        out["left right"] = gold.replace("(", "\\left(").replace(")", "\\right)")
    if "pmatrix" in gold:
        out["bmatrix"] = gold.replace("pmatrix", "bmatrix")
    if "-" in gold and "\\text" not in gold:
        out["unicode minus"] = gold.replace("-", "\u2212")
    text = canonical(gold)
    number = parse_number(text)
    if number is not None:
        out["named"] = f"x = {gold}"
        if number.value.denominator == 1:
            out["trailing zero"] = f"{number.value}.0"
            if abs(number.value) >= 1000:
                out["thousands"] = f"{number.value.numerator:,}"
            out["fraction over one"] = f"\\frac{{{2 * number.value}}}{{2}}"
        elif set(_primes(number.value.denominator)) <= {2, 5}:
            out["decimal"] = _decimal(number.value)
            out["unreduced"] = f"\\frac{{{3 * number.value.numerator}}}{{{3 * number.value.denominator}}}"
    got = shape(text)
    simple = "=" not in text and "\\ldots" not in text
    if got is not None and got.kind == "list" and "," in text and simple and number is None:
        out["reversed list"] = ", ".join(reversed(got.members))
        out["list in braces"] = "\\{" + ",".join(got.members) + "\\}"
    terms = re.fullmatch(r"(\d+)\s*([-+])\s*(\d*\\sqrt\{\d+\})", gold)
    if terms:
        out["turned sum"] = f"{'-' if terms[2] == '-' else ''}{terms[3]}+{terms[1]}"
    return {name: form for name, form in out.items() if form != gold}


def mistakes(gold: str, chance: random.Random) -> dict[str, str]:
    """Typical wrong answers made from a right one, by the name of the mistake."""
    out: dict[str, str] = {}
    digits = [match.start() for match in re.finditer(r"\d", gold)]
    if digits:
        where = chance.choice(digits)
        other = chance.choice([digit for digit in "123456789" if digit != gold[where]])
        out["digit"] = gold[:where] + other + gold[where + 1 :]
        if re.search(r"(?:^|[^\d.])[1-9]\d*$", gold[: digits[-1] + 1]):
            out["ten times"] = gold[: digits[-1] + 1] + "0" + gold[digits[-1] + 1 :]
    text = canonical(gold)
    number = parse_number(text)
    if number is not None and number.value != 0:
        out["sign"] = gold[1:] if gold.startswith("-") else f"-{gold}"
        out["off by one"] = str(number.value + 1)
        if number.value.denominator > 1:
            out["turned fraction"] = f"\\frac{{{number.value.denominator}}}{{{number.value.numerator}}}"
            out["rounded"] = f"{float(number.value):.3f}"
    got = shape(text)
    if got is not None and len(got.members) > 1 and number is None:
        rest = got.members[:-1]
        if got.kind == "tuple":
            turned = got.brackets[0] + ",".join(reversed(got.members)) + got.brackets[-1]
            if tuple(reversed(got.members)) != got.members:
                out["turned point"] = turned
        else:
            out["dropped member"] = ",".join(rest)
            out["added member"] = text + ",97"
    match = re.search(r"\^\{?(\d)\}?", gold)
    if match:
        out["exponent"] = gold[: match.start(1)] + str((int(match[1]) % 9) + 1) + gold[match.end(1) :]
    return {name: form for name, form in out.items() if not _equal_by_chance(form, gold)}


def _equal_by_chance(form: str, gold: str) -> bool:
    left, right = parse_number(canonical(form)), parse_number(canonical(gold))
    return canonical(form) == canonical(gold) or bool(left and right and left.value == right.value)


def _primes(number: int) -> list[int]:
    found, factor = [], 2
    while number > 1 and factor <= 10**4:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return [*found, number] if number > 1 else found


def _decimal(value: Fraction) -> str:
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return ("-" if value < 0 else "") + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def pairs(golds: list[str], seed: int) -> list[tuple[str, str, bool, str]]:
    """One right and one wrong answer for each gold: (answer, gold, expected, what was done)."""
    chance = random.Random(seed)
    out: list[tuple[str, str, bool, str]] = []
    for gold in golds:
        for forms, expected in ((rewrites(gold), True), (mistakes(gold, chance), False)):
            if forms:
                name = chance.choice(sorted(forms))
                out.append((forms[name], gold, expected, name))
    return out


def plain(answer: str, gold: str) -> bool:
    """math-verify as its own documentation has it, gold in dollars."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(answer)))


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=int, default=12000, help="gold answers used")
    parser.add_argument("--plain", type=int, default=1500, help="pairs that plain math-verify is timed on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with options.file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, options.limit)]
    golds = [forms[0] for row in rows if (forms := prepare_gold(row["answer"]))]
    made = pairs(golds, options.seed)
    items = [GradeItem(f"so the answer is $\\boxed{{{answer}}}$.", (gold,)) for answer, gold, _, _ in made]
    with Grader(RewardConfig(name="benchmark", workers=options.workers)) as grader:
        grader.grade("\\boxed{\\sin x}", ("\\min x",))  # start the workers
        begin = time.perf_counter()
        outcomes = grader.grade_batch(items)
        ours = len(items) / (time.perf_counter() - begin)
        figures = grader.stats(outcomes)
    sample = random.Random(options.seed).sample(made, min(options.plain, len(made)))
    plain("1", "2")
    begin = time.perf_counter()
    verdicts = [plain(f"so the answer is $\\boxed{{{answer}}}$.", gold) for answer, gold, _, _ in sample]
    theirs = len(sample) / (time.perf_counter() - begin)
    print(f"pairs {len(items)} from {len(golds)} gold answers, half right")
    print(f"r1zero {ours:.0f} a second with {options.workers} workers; math-verify {theirs:.0f} a second, 1 process")
    print(f"ratio {ours / theirs:.1f}")
    print(f"decided without math-verify {figures['fast_path_frac']:.2%}; p99 {1000 * figures['seconds_p99']:.1f} ms")
    wrong = [(pair, outcome) for pair, outcome in zip(made, outcomes, strict=True) if outcome.right != pair[2]]
    errors = sum(verdict != expected for verdict, (_, _, expected, _) in zip(verdicts, sample, strict=True))
    print(f"disagreements: r1zero {len(wrong)} of {len(made)}, plain math-verify {errors} of {len(sample)}")
    for (answer, gold, expected, name), outcome in wrong:
        wanted = "right" if expected else "wrong"
        print(f"  {name}: {answer!r} for {gold!r} is {wanted}, graded {outcome.status.value} by {outcome.rule}")


if __name__ == "__main__":
    main()
