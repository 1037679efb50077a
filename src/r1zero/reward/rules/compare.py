"""Whether an answer equals a gold answer: exact rules in a fixed order, math-verify for what they leave open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from r1zero.reward.rules import formulas as rules_formula
from r1zero.reward.rules import members as rules_members
from r1zero.reward.rules import scalars as rules
from r1zero.reward.rules import words
from r1zero.reward.rules.latex import canonical
from r1zero.reward.rules.scalars import Rule
from r1zero.reward.workers.limits import MAX_TEXT, too_costly

Cas = Callable[[str, str], bool]
MAX_NESTING = 6
RULES: tuple[Rule, ...] = (
    rules.text,
    rules.hedge,
    rules.infinity,
    rules.empty_set,
    rules.base,
    rules.clock,
    rules.choice,
    rules.word,
    rules.number,
    rules.quantity,
    rules_members.plus_minus,
    rules_members.intervals,
    rules_members.matrices,
    rules_members.collection,
    rules_formula.approximation,
    rules_formula.equation,
    rules_formula.value,
    rules_formula.kind,
)
"""In the order in which they are asked; the first that knows decides."""


@dataclass(frozen=True)
class Verdict:
    """Right or wrong, and the name of the rule that decided."""

    right: bool
    rule: str


class NeedsCas(Exception):
    """No exact rule decides this pair: it is to be compared in a worker."""


def decide(answer: str, gold: str, cas: Cas | None = None, prose: bool = False) -> Verdict:
    """Compare one answer with one gold answer.

    Args:
        answer: Extracted answer, as written.
        gold: One acceptable answer.
        cas: Compares two canonical texts by computer algebra; None in the caller's process.
        prose: The answer is the free text of a tag, where a sentence may surround one number.

    Raises:
        NeedsCas: ``cas`` is None and no exact rule decides.
    """
    if len(answer) > MAX_TEXT or len(gold) > MAX_TEXT:
        return Verdict(answer.split() == gold.split(), "length")
    ours, theirs = canonical(answer), canonical(gold)
    if not ours or not theirs:
        return Verdict(False, "empty")
    if prose:
        number = words.sentence_number(ours)
        if number is not None and words.sentence_number(theirs) is None and words.words_of(theirs) is None:
            if not number:
                return Verdict(False, "sentence")
            return Verdict(_decide(number, theirs, cas, False, 0).right, "sentence")
    return _decide(ours, theirs, cas, False, 0)


def _decide(answer: str, gold: str, cas: Cas | None, inner: bool, nesting: int) -> Verdict:
    if not answer or not gold:
        return Verdict(False, "empty")
    if nesting > MAX_NESTING:
        return Verdict(False, "nesting")
    used = ""

    def compare(one: str, two: str, inner: bool = True) -> bool:
        nonlocal used
        verdict = _decide(one, two, cas, inner, nesting + 1)
        used = used or (verdict.rule if verdict.rule.startswith("math_verify") else "")
        return verdict.right

    for rule in RULES:
        equal = rule(answer, gold, compare, inner)
        if equal is not None:
            return Verdict(equal, used or rule.__name__)
    if too_costly(answer) or too_costly(gold):
        return Verdict(False, "cost")
    if cas is None:
        raise NeedsCas
    right = cas(answer, gold)
    if right and (differs_by_case(answer, gold) or answer.count("'") != gold.count("'")):
        return Verdict(False, "math_verify, then letters")
    return Verdict(right, "math_verify")


def differs_by_case(answer: str, gold: str) -> bool:
    """Whether the letters of two answers are the same but for their case: x is not X."""
    ours, theirs = words.letters_of(answer), words.letters_of(gold)
    return ours != theirs and {letter.lower() for letter in ours} == {letter.lower() for letter in theirs}


def against_any(answer: str, golds: tuple[str, ...], prose: bool = False, cas: Cas | None = None) -> Verdict:
    """Compare with each acceptable gold answer; right if any is equal.

    Raises:
        NeedsCas: ``cas`` is None and the exact rules can't decide.
    """
    undecided = False
    verdict = Verdict(False, "")
    for gold in golds:
        try:
            verdict = decide(answer, gold, cas, prose)
        except NeedsCas:
            undecided = True
            continue
        if verdict.right:
            return verdict
    if undecided:
        raise NeedsCas
    return verdict
