r"""Equations, and values that are given with their name.

Grammar: sides between `=`; `a \approx b` is `a` with a rounding of it.
    A name is what can stand for an unknown: `x`, `y_1`, `m_{\max}`, `f(x)`, `P(X=2)`, `|AB|`, `\angle ABC`, `AB`,
    `\overline{AB}`, `(x,y)`, a word. In a gold answer also what a question asks for: `\sin A`, `\frac{AB}{CD}`, `|z|`.
Compares: right sides under one name; else both equations by their values, up to a factor.
Pays: `x=5` for 5 and 5 for `x=5`; `f(x)=2x` for `y=2x`; a line in another form; a chain of equal sides by its last.
Never pays: an equation whose left side is not a name (`2x+1=5`, `x^2=5`, `x+y=5`, `..=0`) for its right side; another
    name; sides that contradict each other or are not known to be equal (`97=2n`); a letter for a letter (`A=B`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from r1zero.reward.rules import values
from r1zero.reward.rules.latex import key
from r1zero.reward.rules.quantity import split_unit
from r1zero.reward.rules.structure import CONSTANTS, is_list, sides, split
from r1zero.reward.rules.word import is_name as is_word
from r1zero.reward.rules.word import words_of

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    ("x=5", "5", True), ("5", "|AB|=5", True), (r"\frac12", r"\frac{AB}{CD}=\frac{1}{2}", True),
    ("2x-y+3=0", "y=2x+3", True),
    ("y = 2x+3", "f(x) = 2x+3", True), ("56\\%", "0.56 = 56\\%", True), ("2x+1=5", "5", False), ("x^2-1=0", "0", False),
    ("y=5", "x=5", False), ("5=6", "6", False), ("97=2n", "2n", False), ("A=B", "B", False),
    ("f(x)+g(x)=x^2", "x^2", False),
)  # fmt: skip

_SUB = r"(?:_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\[a-z]+|\w))?"
_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|psi|omega"
    r"|Delta|Omega|Phi|ell)"
)
_RUN = r"[A-Z]'?(?:_\w)?(?:[A-Z]'?(?:_\w)?){1,4}"
_MARK = r"\\(?:overline|overrightarrow|vec|widehat|hat|bar|tilde|dot)"
_PLAIN = rf"(?:(?:[a-zA-Z]|{_GREEK}|\\text\{{(?!gcd|lcm|max|min)[a-zA-Z]+\}}){_SUB}'*(?:\^\{{?(?:-1|\*)\}}?)?{_SUB})"
_APPLIED = rf"{_PLAIN}\((?:-?\d+|{_PLAIN}|{_RUN})(?:, ?(?:-?\d+|{_PLAIN}))*\)"
_CHANCE = (
    r"(?:P|Pr|E|Var|\\Pr|\\mathbb\{[PE]\}|\\text\{(?:P|Pr|E|Var|Cov)\})(?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])"
)
_LENGTH = (
    rf"(?:m ?)?(?:\\(?:angle|measuredangle|triangle|square) ?)?(?:{_RUN}|[A-Z])"
    rf"|\|(?:{_RUN}|{_MARK}\{{[A-Za-z]+\}}|[A-Z])\||\[{_RUN}\]"
)
_NAME = re.compile(
    rf"{_PLAIN}|{_APPLIED}|{_CHANCE}|{_LENGTH}|{_MARK}(?:\{{[A-Za-z]+\}}| ?[A-Za-z]){_SUB}|(?:\\angle ?){_PLAIN}"
)
_POINT = re.compile(rf"\({_PLAIN}(?:, ?{_PLAIN})+\)")
_ASKED = re.compile(
    rf"\|[^|]*\||{_CHANCE}|{_APPLIED}|{_PLAIN}\([^()]*\)"
    r"|\\(?:sin|cos|tan|cot|sec|csc|ln|log|max|min|lim|det|dim|gcd|text\{(?:gcd|lcm|max|min)\})"
    rf"(?:\^\{{?-?\d\}}?|_\{{[^{{}}]*\}})? ?"
    rf"(?:\([^()]*\)|\\angle ?[A-Z]+|{_APPLIED}|{_PLAIN}|{_RUN})"
    rf"|{_MARK}(?:\{{[^{{}}]*\}}| ?[A-Za-z])|\\angle ?(?:[A-Z]+|{_PLAIN})|{_RUN}"
    rf"|(?:[a-zA-Z]|{_GREEK})_(?:\{{[^{{}}]*\}}|\w)"
)
_AROUND = re.compile(r"(?:[Q\d+\-*/^{}() .!]|\\frac|\\cdot|\\sqrt|\\text\{Area\})*")
_NEARLY = frozenset({r"\approx", r"\simeq", r"\approxeq", r"\doteq"})


def is_name(side: str, gold: bool = False) -> bool:
    """Whether a side of an equation only names what is asked for.

    Args:
        side: Canonical text.
        gold: It is in a gold answer, where all that can be asked for counts.
    """
    if side in CONSTANTS or side in ("", "i", "e"):
        return False
    said = words_of(side)
    if (said is not None and is_word(*said)) or _NAME.fullmatch(side) or _POINT.fullmatch(side):
        return True
    terms = split(side, {":"}) or []
    if len(terms) > 1:
        return all(is_name(term, gold) for term in terms)
    rest = _ASKED.sub("Q", side)
    return gold and "Q" in rest and bool(_AROUND.fullmatch(rest))


def equation(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Equations against equations, and against the bare value of the side that is not a name."""
    ours, theirs = _sides(answer, False), _sides(gold, True)
    if (ours is None and theirs is None) or is_list(answer) or is_list(gold):
        return None
    if ours and not ours[0]:
        return compare(ours[1], gold, inner)
    if ours is not None and _contradicts(ours):
        return False
    if theirs is None:
        assert ours is not None
        return _for_value(ours, gold, compare, inner)
    if ours is None:
        known = [values.constant(split_unit(side).body) is not None for side in theirs]
        if all(known):
            return any(compare(answer, side, inner) for side in theirs)
        if is_name(theirs[0], gold=True):
            return compare(answer, theirs[-1], inner)
        return compare(answer, theirs[0], inner) if known[0] and is_name(theirs[-1], gold=True) else False
    if key(ours[0]) == key(theirs[0]) or (_function(ours[0]) and _function(theirs[0]) and "y" in (ours[0], theirs[0])):
        return compare(ours[-1], theirs[-1], inner)
    if len(ours) != 2 or len(theirs) != 2:
        return None
    if {key(side) for side in ours} == {key(side) for side in theirs}:
        return True
    both = values.proportional(f"({ours[0]})-({ours[1]})", f"({theirs[0]})-({theirs[1]})")
    if both is not None:
        return both
    if values.same_value(ours[0], theirs[0]) and values.same_value(ours[1], theirs[1]):
        return True
    if is_name(ours[0]) and is_name(theirs[0], gold=True):
        return False  # x=5 against y=5
    return None


def _for_value(ours: list[str], gold: str, compare: Compare, inner: bool) -> bool | None:
    """An equation for a gold answer that is not one: a name or a chain of equal sides may precede it."""
    first, last = ours[0], ours[-1]
    if len(ours) == 2 and is_name(last) and not is_name(first):
        first, last = last, first
    if re.fullmatch(r"[a-zA-Z]|\\[a-z]+", gold) and gold not in CONSTANTS and not _function(first):
        return False
    chain = ours[:-1]
    equal = len(chain) > 1 and all(values.same_value(side, chain[0]) for side in chain[1:])
    if is_name(first) or equal or all(compare(side, last, inner) for side in chain):
        return compare(last, gold, inner)
    return False


def _function(side: str) -> bool:
    """Whether a side names a function of one variable: y, f(x)."""
    return side == "y" or re.fullmatch(r"[a-zA-Z](?:_\{?\w+\}?)?\([a-z]\)", side) is not None


def _sides(text: str, gold: bool) -> list[str] | None:
    r"""Sides of an equation; ``\approx b`` is one more side of a gold answer, and is left out of an answer."""
    rough = split(text, _NEARLY)
    if rough is None or len(rough) == 1:
        return sides(text)
    if gold:
        return [side for part in rough for side in (sides(part) or [part]) if side]
    return rough[:2] if not rough[0] or is_name(rough[0]) else sides(rough[0]) or ["", rough[0]]


def _contradicts(pieces: list[str]) -> bool:
    """Whether two sides are constants of different value."""
    known = [piece for piece in pieces if values.constant(piece) is not None]
    return any(values.same_value(piece, known[0]) is False for piece in known[1:])
