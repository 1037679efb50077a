r"""Expressions: formulas with or without letters, by their values.

Grammar: sums, products, powers, roots, the usual functions, factorials, floors, finite sums, letters (see ``formula``).
Compares: exact fractions, else 50 digits; formulas with letters at fixed points, fractions and whole numbers, above and
    below 0 (see ``values``).
Pays: another form of equal value; an irrational number rounded to 7 digits; degree signs left out; the gold's own
    coefficients before they were rounded to 6 digits.
Never pays: a formula that differs at one point; an unknown function read as a product (`y(0)+x` is not `x`); a floor
    for what is under it; a sum for its closed form; letters of another case; `\frac{dt}{dx}` for `\frac{dx}{dt}`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from r1zero.reward.rules import values
from r1zero.reward.rules.structure import tokens
from r1zero.reward.rules.word import letters_of

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}", True), (r"\frac{\sqrt3}{3}", r"\frac{1}{\sqrt{3}}", True),
    ("1.41421356", r"\sqrt{2}", True), (r"180^\circ-2\alpha", r"180-2\alpha", True),
    (r"\sum_{j=1}^{n} j a_j", r"\sum_{k=1}^{n} a_k k", True), ("x", "|x|", False), ("x", "y(0)+x", False),
    (r"\lfloor\sqrt{n-2}\rfloor", r"\lfloor\sqrt{n-1}\rfloor", False), ("X^2", "x^2", False),
    (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", False), (r"\lfloor\frac{1}{x+2}\rfloor", "0", False),
)  # fmt: skip

_DEGREE = re.compile(r"\^(?:\{\\circ\}|\\circ)")
_TRIGONOMETRIC = {r"\sin", r"\cos", r"\tan"}
_MARKS = ("'", ":", "?", r"\ldots", r"\pmod", r"\bmod", r"\equiv", "=")
_CALL = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z])\((-?[\d.]+|[a-zA-Z])\)")
_DERIVATIVE = re.compile(r"\\frac\{ ?(?:d|\\partial) ?[^{}]*\}\{ ?(?:d|\\partial) ?[^{}]*\}|\^(?:\{[^{}]*\}|\w)\^")
"""What math-verify reads as 0, or drops: a derivative, an exponent of an exponent without braces."""
_PIECES = ("<", ">", r"\leq", r"\geq", r"\cup", r"\in", r"\infty", "=")


def expression(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Formulas by their values at fixed points, to 38 digits; exact where they are rational."""
    if (answer[0] + answer[-1] == "[]") != (gold[0] + gold[-1] == "[]"):
        return False  # a list of one is not a value
    equal = values.same_value(answer, gold)
    if equal is False and bool(_DEGREE.search(answer)) != bool(_DEGREE.search(gold)):
        plain = [_DEGREE.sub("", side) for side in (answer, gold)]
        if not _TRIGONOMETRIC & {*tokens(answer), *tokens(gold)}:
            return values.same_value(*plain)
    return equal


def excluded(answer: str, gold: str) -> bool:
    """Whether computer algebra may not say right: it drops words, reads ``f(0)`` as a product, lets letters cancel."""
    ours, theirs = letters_of(answer) - {"e", "i", "d"}, letters_of(gold) - {"e", "i", "d"}
    same = {letter.lower() for letter in ours} == {letter.lower() for letter in theirs}
    if ours != theirs and (same or not any(sign in tokens(answer) + tokens(gold) for sign in _PIECES)):
        return True
    if _DERIVATIVE.search(answer) or _DERIVATIVE.search(gold):
        return True
    said = [
        {
            token
            for token in tokens(side)
            if token.startswith("\\text{") or (len(token) > 2 and token.isalpha()) or token == "or"
        }
        for side in (answer, gold)
    ]
    called = [set(_CALL.findall(side)) for side in (answer, gold)]
    marked = any(tokens(answer).count(mark) != tokens(gold).count(mark) for mark in _MARKS)
    return said[0] != said[1] or called[0] != called[1] or marked
