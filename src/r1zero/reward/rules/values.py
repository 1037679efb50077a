"""Whether two formulas are equal, by their values: exact fractions where possible, else 50 digits.

Constants are compared once. Formulas with letters are compared at fixed points: a difference at one point
proves them unequal; agreement at all of them, negative ones included, to 38 digits is taken for equality.
What the points can't settle is left open. Sizes are bounded before anything is computed.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from r1zero.reward.rules.evaluation import DIGITS, TooBig, Undefined, Value, context_of, inexact, quotient, value_at
from r1zero.reward.rules.formula import Formula, parse
from r1zero.reward.rules.number import Number, is_rounding, parse_number

MORE_DIGITS = 160
_EQUAL, _DIFFERENT, _TINY = -38, -25, -15
_WHOLE_NAMES = frozenset("nmkNMK")
"""Letters that stand for whole numbers, as everybody means them."""


def same_value(answer: str, gold: str) -> bool | None:
    """Whether two canonical texts are formulas of equal value; None when this module can't tell.

    A decimal of at least 7 significant digits stands for the irrational constant that it rounds.
    """
    left, right = parse(answer), parse(gold)
    if left is None or right is None or left.log != right.log:
        return None
    if left.applied != right.applied or (left.repeated and not right.repeated):
        return False  # the sum that a question asks for is not an answer
    try:
        if not left.symbols and not right.symbols:
            return _same_constant(answer, gold)
        equal = _same_function(answer, gold, left, right)
        return True if equal is False and _rounds_coefficients(answer, gold) else equal
    except TooBig:
        return None


_DECIMAL = re.compile(r"\d*\.\d+")


def _rounds_coefficients(answer: str, gold: str) -> bool:
    """Whether the gold formula is the answer with coefficients rounded to 6 digits or more."""
    decimals = [len(found.replace(".", "").lstrip("0")) for found in _DECIMAL.findall(gold)]
    if not decimals or min(decimals) < 6 or "." in answer:
        return False
    try:
        pairs = [(value_at(answer, point), value_at(gold, point)) for point in ("above", "inside", "large")]
    except (Undefined, TooBig):
        return False
    exact = [(inexact(context_of(DIGITS), one), inexact(context_of(DIGITS), two)) for one, two in pairs]
    return all(abs(one - two) <= abs(one) * 10.0 ** (1 - min(decimals)) for one, two in exact)


def _same_constant(answer: str, gold: str) -> bool | None:
    try:
        left, right = value_at(answer, "constant"), value_at(gold, "constant")
    except Undefined:
        return None
    equal = _equal(left, right, answer, gold, "constant")
    if equal is False:
        for decimal, other in ((parse_number(answer), right), (parse_number(gold), left)):
            if decimal is not None and decimal.places is not None and rounds(decimal, other):
                return True
    return equal


def rounds(decimal: Number, value: Value) -> bool:
    """Whether a plain decimal of at least 7 digits is the rounding or truncation of an irrational value."""
    if decimal.digits < 7 or not decimal.places or not hasattr(value, "_mpf_"):
        return False
    exact = _as_fraction(value)
    if is_rounding(decimal, exact):
        return True
    return decimal.digits >= 15 and abs(decimal.value - exact) <= abs(exact) * Fraction(1, 10**15)


def _as_fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    return (-1 if sign else 1) * Fraction(mantissa) * Fraction(2) ** exponent


def proportional(answer: str, gold: str) -> bool | None:
    """Whether one formula with letters is a constant multiple of another, not 0; None when open or not."""
    left, right = parse(answer), parse(gold)
    if (
        left is None
        or right is None
        or not (left.symbols and left.symbols == right.symbols)
        or left.whole
        or right.whole
        or left.applied != right.applied
    ):
        return None
    try:
        ratios = [
            quotient(value_at(answer, point), value_at(gold, point)) for point in ("above", "inside", "large", "below")
        ]
        if all(ratio != 0 and _equal(ratio, ratios[0], "", "", "") for ratio in ratios):
            return True
    except (Undefined, TooBig, KeyError, AssertionError):
        pass
    return None


def constant(text: str) -> Value | None:
    """Value of a canonical constant formula at 50 digits, None if it is not one."""
    formula = parse(text)
    if formula is None or formula.symbols:
        return None
    try:
        return value_at(text, "constant")
    except (Undefined, TooBig):
        return None


def _same_function(answer: str, gold: str, left: Formula, right: Formula) -> bool | None:
    if left.whole or right.whole or left.stepped or right.stepped:
        stepped = left.stepped or right.stepped
        numbers = range(1, 27) if stepped else (1, 2, 3, 4, 5, 6, 8, 11)
        results = [_same_at(answer, gold, f"whole{number}") for number in numbers]
        known = [result for result in results if result is not None]
        if len(known) < 4:
            return None
        if (
            all(known) and stepped and not (left.whole or right.whole or left.symbols <= _WHOLE_NAMES)
        ):  # a floor shows between whole numbers
            between = [
                _same_at(answer, gold, point)
                for point in ("above", "inside", "large", "half", "below", "deep")
                if not (_unreal(answer, point) or _unreal(gold, point))
            ]
            return False not in between
        return all(known)
    positive = [_same_at(answer, gold, point) for point in ("above", "inside", "large")]
    if False in positive:
        if left.periodic or right.periodic:  # (-1)^n and cos(n pi) agree where it matters
            whole = [_same_at(answer, gold, point) for point in ("whole2", "whole3", "whole5")]
            return False if False in whole else None
        return False
    if positive.count(True) < 2:
        return None
    # where neither is a real number the letters are outside their domain: sqrt(1/n) and 1/sqrt(n) at n < 0
    below = _same_at(answer, gold, "below")
    if below is True or (below is None and _unreal(answer, "below") and _unreal(gold, "below")):
        return True
    return None


def _unreal(text: str, point: str) -> bool:
    """Whether a formula without an explicit imaginary unit has no real value at a point."""
    try:
        value = value_at(text, point)
    except Undefined:
        return True
    formula = parse(text)
    assert formula is not None
    if formula.imaginary or not hasattr(value, "_mpc_"):
        return False
    return bool(abs(value.imag) > abs(value) * context_of(DIGITS).mpf(10) ** -30)


def _same_at(answer: str, gold: str, point: str) -> bool | None:
    try:
        equal = _equal(value_at(answer, point), value_at(gold, point), answer, gold, point)
    except Undefined:
        return None
    if equal is False and _unreal(answer, point) and _unreal(gold, point):
        return None
    return equal


def _equal(left: Value, right: Value, answer: str, gold: str, point: str) -> bool | None:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    context = context_of(DIGITS)
    verdict = _close(context, left, right)
    if verdict is not None:
        return verdict
    more = context_of(MORE_DIGITS)
    finer, other = value_at(answer, point, MORE_DIGITS), value_at(gold, point, MORE_DIGITS)
    size, before = _size(more, finer, other), _size(context, left, right)
    if size == 0 or size < before * context.mpf(10) ** -60:
        return True  # what is left is noise that shrinks with the precision: both are 0
    difference = abs(inexact(more, finer) - inexact(more, other))
    return bool(difference <= size * more.mpf(10) ** -100)


def _size(context: Any, left: Value, right: Value) -> Any:
    return max(abs(inexact(context, left)), abs(inexact(context, right)))


def _close(context: Any, left: Value, right: Value) -> bool | None:
    size = _size(context, left, right)
    difference = abs(inexact(context, left) - inexact(context, right))
    if difference == 0:
        return True
    if size < context.mpf(10) ** _TINY:
        return None
    if difference <= size * context.mpf(10) ** _EQUAL:
        return True
    return False if difference > size * context.mpf(10) ** _DIFFERENT else None
