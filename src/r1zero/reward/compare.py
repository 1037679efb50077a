"""Whether an answer equals a gold answer: exact rules in a fixed order, math-verify for what they leave open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from r1zero.reward.latex import canonical, key
from r1zero.reward.numbers import parse_number, same_number

Cas = Callable[[str, str], bool]


@dataclass(frozen=True)
class Verdict:
    """Right or wrong, and the name of the rule that decided."""

    right: bool
    rule: str


class NeedsCas(Exception):
    """No exact rule decides this pair: it is to be compared in a worker."""


def decide(answer: str, gold: str, cas: Cas | None = None, prose: bool = False) -> Verdict:
    """Compare one answer with one gold answer.

    Raises:
        NeedsCas: ``cas`` is None and no exact rule decides.
    """
    if key(answer) == key(gold):
        return Verdict(True, "text")
    left, right = parse_number(canonical(answer)), parse_number(canonical(gold))
    if left and right:
        return Verdict(same_number(left, right), "number")
    if cas is None:
        raise NeedsCas
    return Verdict(cas(canonical(answer), canonical(gold)), "math_verify")


def against_any(answer: str, golds: tuple[str, ...], prose: bool = False, cas: Cas | None = None) -> Verdict:
    """Compare with each acceptable gold answer; right if any is equal.

    Raises:
        NeedsCas: ``cas`` is None and the exact rules can't decide.
    """
    open_pair = False
    verdict = Verdict(False, "")
    for gold in golds:
        try:
            verdict = decide(answer, gold, cas, prose)
        except NeedsCas:
            open_pair = True
            continue
        if verdict.right:
            return verdict
    if open_pair:
        raise NeedsCas
    return verdict
