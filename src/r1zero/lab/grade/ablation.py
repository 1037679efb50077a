"""What each rule of comparison pays: the errors on cases with known verdicts when it is left out.

`python scripts/grade.py --ablate cases.jsonl ... questions.jsonl` pools files of cases (``response``, ``gold``,
``verdict``) and question sets, whose gold answers give a right and a wrong variant each.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.lab.grade.attack import read_questions
from r1zero.lab.grade.variants import mistakes, rewrites
from r1zero.launch.files import parse_json
from r1zero.reward.extract import extract
from r1zero.reward.gold import prepare_gold
from r1zero.reward.rules import compare


@dataclass(frozen=True)
class Case:
    """An extracted answer, its gold answers and what is known to be right."""

    answer: str
    gold: tuple[str, ...]
    prose: bool
    verdict: bool


@dataclass(frozen=True)
class Errors:
    """Errors on the cases: wrongly paid, wrongly refused; and how many needed computer algebra."""

    paid: int
    refused: int
    slow: int

    @property
    def total(self) -> int:
        """Both kinds."""
        return self.paid + self.refused


def pooled(paths: list[Path], seed: int = 0) -> list[Case]:
    """The examples of all answer types, and the cases of all files.

    Raises:
        UserError: A file can't be read or is of neither shape.
    """
    cases = [
        Case(answer, (gold,), module is compare.sentence, right)
        for module in compare.TYPES
        for answer, gold, right in module.EXAMPLES
    ]
    for path in paths:
        try:
            rows = [parse_json(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        except (OSError, ValueError) as error:
            raise UserError(f"can't read {path}: {error}") from error
        if rows and isinstance(rows[0], dict) and "verdict" in rows[0]:
            for number, row in enumerate(rows, 1):
                if not isinstance(row, dict) or not {"response", "gold", "verdict"} <= set(row):
                    raise UserError(f"{path}: case {number} needs response, gold and verdict, as the first one has")
            cases += [case for row in rows if (case := _case(row)) is not None]
        else:
            chance = random.Random(seed)
            for forms in dict.fromkeys(at.gold for at in read_questions(path)):
                for made, verdict in ((rewrites(forms[0]), True), (mistakes(forms[0], chance), False)):
                    if made:
                        cases.append(Case(made[chance.choice(sorted(made))], forms[:1], False, verdict))
    return cases


def _case(row: dict[str, Any]) -> Case | None:
    found = extract(row["response"], "answer_tag" if row.get("template") == "r1" else "boxed")
    gold = prepare_gold(None if row["gold"] == "__FLOAT_NAN__" else row["gold"])
    return Case(found.answer, gold, found.prose, row["verdict"]) if found.answer is not None and gold else None


@contextmanager
def without(rule: compare.Rule) -> Iterator[None]:
    """Compare without one rule."""
    kept = compare.RULES
    compare.RULES = tuple(one for one in kept if one is not rule)
    try:
        yield
    finally:
        compare.RULES = kept


def errors(cases: list[Case]) -> Errors:
    """Errors of the rules as they are, computer algebra in this process."""
    from r1zero.reward.rules import mathverify

    paid = refused = slow = 0
    for case in cases:
        try:
            right = compare.against_any(case.answer, case.gold, prose=case.prose).right
        except compare.NeedsCas:
            slow += 1
            right = compare.against_any(case.answer, case.gold, prose=case.prose, cas=mathverify.equal).right
        paid += right and not case.verdict
        refused += case.verdict and not right
    return Errors(paid, refused, slow)


def ablation(cases: list[Case]) -> Iterator[str]:
    """A Markdown table: all rules, then each left out."""
    all_rules = errors(cases)
    yield f"{len(cases)} cases; with all rules {all_rules.paid} wrongly paid, {all_rules.refused} wrongly refused, "
    yield f"{all_rules.slow} left to math-verify."
    yield ""
    yield "| rule left out | errors more | wrongly paid more | wrongly refused more | left to math-verify more |"
    yield "|---|---|---|---|---|"
    found = []
    for rule in compare.RULES:
        with without(rule):
            found.append((rule.__name__, errors(cases)))
    for name, one in sorted(found, key=lambda pair: -pair[1].total):
        more = (one.total, one.paid, one.refused, one.slow)
        base = (all_rules.total, all_rules.paid, all_rules.refused, all_rules.slow)
        yield f"| {name} | " + " | ".join(f"{a - b:+d}" for a, b in zip(more, base, strict=True)) + " |"
