"""Whether an answer equals a gold answer: exact rules in a fixed order, math-verify for what they leave open."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from r1zero.reward.rules import (
    base,
    choice,
    collection,
    equation,
    expression,
    interval,
    matrix,
    number,
    quantity,
    sentence,
    time,
    word,
)
from r1zero.reward.rules.latex import canonical, key
from r1zero.reward.workers.limits import MAX_TEXT, too_costly

Cas = Callable[[str, str], bool]
MAX_NESTING = 6


class Compare(Protocol):
    """Comparison of two parts of an answer with the same rules."""

    def __call__(self, answer: str, gold: str, inner: bool = True, /) -> bool:
        """Whether the parts are equal; ``inner``: they are inside brackets or a list."""


Rule = Callable[[str, str, Compare, bool], bool | None]


def text(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Equal canonical spelling."""
    return True if key(answer) == key(gold) else None


TYPES = (number, quantity, choice, word, time, base, collection, interval, matrix, equation, expression, sentence)
"""The modules of the answer types, each with its grammar, what it pays and never pays, and EXAMPLES."""
RULES: tuple[Rule, ...] = (
    text,
    word.infinity,
    word.empty_set,
    base.base,
    time.clock,
    choice.choice,
    word.word,
    number.number,
    quantity.quantity,
    collection.plus_minus,
    interval.interval,
    matrix.matrices,
    collection.collection,
    equation.equation,
    expression.expression,
)
"""In the order in which they are asked; the first that knows decides."""
_LEAD = re.compile(
    r"\\text\{(?:the )?(?:final )?answer ?(?:is|:|=)? ?:?\} ?|(?:the )?(?:final )?answer ?(?:is|:|=) ?:? ?"
    r"|\u7b54\u6848(?:\u662f|\u4e3a)? ?[:\uff1a]? ?",
    re.IGNORECASE,
)


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
    answer = sentence.without_denial(answer) if prose else answer
    if len(answer) > MAX_TEXT or len(gold) > MAX_TEXT:
        return Verdict(answer.split() == gold.split(), "length")
    ours, theirs = canonical(answer), canonical(gold)
    ours = _LEAD.sub("", ours, count=1) if _LEAD.match(ours) and not _LEAD.match(theirs) else ours
    if not ours or not theirs:
        return Verdict(False, "empty")
    if prose:
        value = sentence.value_of(answer)
        if value is not None and sentence.value_of(gold) is None and word.words_of(theirs) is None:
            return Verdict(bool(value) and _decide(value, theirs, cas, False, 0).right, "sentence")
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
    if expression.excluded(answer, gold):
        return Verdict(False, "letters")
    if cas is None:
        raise NeedsCas
    return Verdict(cas(answer, gold), "math_verify")


def against_any(answer: str, golds: tuple[str, ...], prose: bool = False, cas: Cas | None = None) -> Verdict:
    """Compare with each acceptable gold answer; right if any is equal.

    Raises:
        NeedsCas: ``cas`` is None and the exact rules can't decide.
    """
    undecided = False
    verdict = Verdict(False, "")
    unit = quantity.split_unit(canonical(answer[:MAX_TEXT])).unit
    if unit and len(golds) > 1:  # a form without a unit does not excuse a wrong unit
        named = [quantity.split_unit(canonical(gold[:MAX_TEXT]), True).unit for gold in golds]
        golds = () if any(quantity.conflict(unit, other) for other in named) and unit not in named else golds
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
