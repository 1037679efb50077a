"""Whether two formulas are equal, by their values: exact fractions where possible, else 50 digits.

Constants are compared once. Formulas with letters are compared at fixed points: a difference at one point
proves them unequal; agreement at all of them, negative ones included, to 38 digits is taken for equality.
What the points can't settle is left open. Sizes are bounded before anything is computed.
"""

from __future__ import annotations

import math
import re
import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

from r1zero.reward.rules.formula import Formula, Node, parse
from r1zero.reward.rules.number import Number, is_rounding, parse_number

DIGITS, MORE_DIGITS = 50, 160
_EQUAL, _DIFFERENT, _TINY = -38, -25, -15
_MAX_BITS = 20000
_MAX_POWER = 10**5
_MAX_FACTORIAL = 9999
_MAX_STEPS = 400
_WHOLE_NAMES = frozenset("nmkNMK")
"""Letters that stand for whole numbers, as everybody means them."""

Value = Any  # Fraction, mpf or mpc


class Undefined(Exception):
    """The formula has no value at a point (a division by zero, a logarithm of zero)."""


class TooBig(Exception):
    """The value is too costly to compute."""


@lru_cache(maxsize=2)
def _context(digits: int) -> Any:
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.dps = digits
    return context


def same_value(answer: str, gold: str) -> bool | None:
    """Whether two canonical texts are formulas of equal value; None when this module can't tell.

    A decimal of at least 7 significant digits stands for the irrational constant that it rounds.
    """
    left, right = parse(answer), parse(gold)
    if left is None or right is None or left.log != right.log:
        return None
    if left.applied != right.applied:
        return False
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
        pairs = [(_value(answer, point), _value(gold, point)) for point in ("above", "inside", "large")]
    except (Undefined, TooBig):
        return False
    exact = [(_real_or_complex(_context(DIGITS), one), _real_or_complex(_context(DIGITS), two)) for one, two in pairs]
    return all(abs(one - two) <= abs(one) * 10.0 ** (1 - min(decimals)) for one, two in exact)


def _same_constant(answer: str, gold: str) -> bool | None:
    try:
        left, right = _value(answer, "constant"), _value(gold, "constant")
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
            _Evaluator(_context(DIGITS), point).arithmetic("div", _value(answer, point), _value(gold, point))
            for point in ("above", "inside", "large", "below")
        ]
        if all(ratio != 0 and _equal(ratio, ratios[0], "", "", "") for ratio in ratios):
            return True
    except (Undefined, TooBig, KeyError, AssertionError):
        pass
    return None


def near(value: Value, others: list[Value]) -> bool:
    """Whether values of constants are within 5% of the first."""
    if value is None:
        return False
    exact = abs(_real_or_complex(_context(DIGITS), value))
    return all(abs(_real_or_complex(_context(DIGITS), other) - value) <= exact / 20 for other in others)


def is_formula(text: str) -> bool:
    """Whether canonical text is a formula that this module reads."""
    return parse(text) is not None


def constant(text: str) -> Value | None:
    """Value of a canonical constant formula at 50 digits, None if it is none."""
    formula = parse(text)
    if formula is None or formula.symbols:
        return None
    try:
        return _value(text, "constant")
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
                for point in ("above", "inside", "large", "half")
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
    # where both are no real numbers the letters are outside their domain: sqrt(1/n) and 1/sqrt(n) at n < 0
    below = _same_at(answer, gold, "below")
    if below is True or (below is None and _unreal(answer, "below") and _unreal(gold, "below")):
        return True
    return None


def _unreal(text: str, point: str) -> bool:
    """Whether a formula without an explicit imaginary unit has no real value at a point."""
    try:
        value = _value(text, point)
    except Undefined:
        return True
    formula = parse(text)
    assert formula is not None
    if formula.imaginary or not hasattr(value, "_mpc_"):
        return False
    return bool(abs(value.imag) > abs(value) * _context(DIGITS).mpf(10) ** -30)


def _same_at(answer: str, gold: str, point: str) -> bool | None:
    try:
        equal = _equal(_value(answer, point), _value(gold, point), answer, gold, point)
    except Undefined:
        return None
    if equal is False and _unreal(answer, point) and _unreal(gold, point):
        return None
    return equal


def _equal(left: Value, right: Value, answer: str, gold: str, point: str) -> bool | None:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    context = _context(DIGITS)
    verdict = _close(context, left, right)
    if verdict is not None:
        return verdict
    more = _context(MORE_DIGITS)
    finer, other = _value(answer, point, MORE_DIGITS), _value(gold, point, MORE_DIGITS)
    size, before = _size(more, finer, other), _size(context, left, right)
    if size == 0 or size < before * context.mpf(10) ** -60:
        return True  # what is left is noise that shrinks with the precision: both are 0
    difference = abs(_real_or_complex(more, finer) - _real_or_complex(more, other))
    return bool(difference <= size * more.mpf(10) ** -100)


def _size(context: Any, left: Value, right: Value) -> Any:
    return max(abs(_real_or_complex(context, left)), abs(_real_or_complex(context, right)))


def _close(context: Any, left: Value, right: Value) -> bool | None:
    size = _size(context, left, right)
    difference = abs(_real_or_complex(context, left) - _real_or_complex(context, right))
    if difference == 0:
        return True
    if size < context.mpf(10) ** _TINY:
        return None
    if difference <= size * context.mpf(10) ** _EQUAL:
        return True
    return False if difference > size * context.mpf(10) ** _DIFFERENT else None


@lru_cache(maxsize=65536)
def _value(text: str, point: str, digits: int = DIGITS) -> Value:
    formula = parse(text)
    assert formula is not None
    context = _context(digits)
    value = _Evaluator(context, point).evaluate(formula.tree)
    if not isinstance(value, Fraction) and not context.isfinite(value):
        raise Undefined
    return value


def _coordinate(name: str, point: str) -> Fraction:
    """The value of a letter at a point: a fraction that depends on its name alone, so that trees can be cached."""
    share = Fraction(zlib.crc32(name.encode()) % 9973 + 1, 10007)
    if point == "above":
        return 1 + share
    if point == "inside":
        return (share + Fraction(1, 7)) / 2
    if point == "half":
        return 2 + share / 2
    if point == "large":
        return 3 + 5 * share
    if point == "below":
        return -1 - share * share
    offset = zlib.crc32(name.encode()) % 5
    return Fraction(int(point[5:]) + offset)


def _real_or_complex(context: Any, value: Value) -> Any:
    if isinstance(value, Fraction):
        return context.mpf(value.numerator) / value.denominator
    return value


class _Evaluator:
    def __init__(self, context: Any, point: str) -> None:
        self.context = context
        self.point = point
        self.bound: dict[str, Fraction] = {}
        self.steps = 0

    def evaluate(self, node: Node) -> Value:
        kind = node[0]
        if kind == "num":
            return node[1]
        if kind == "sym":
            return self.bound[node[1]] if node[1] in self.bound else _coordinate(node[1], self.point)
        if kind == "app":
            at = [self.evaluate(argument) for argument in node[2:]]
            shown = [str(one) if isinstance(one, Fraction) else self.context.nstr(one, 25) for one in at]
            return _coordinate(f"{node[1]}({','.join(shown)})", "large")
        if kind in ("sum", "prod"):
            return self.repeated(*node)
        if kind == "const":
            return {"e": +self.context.e, "pi": +self.context.pi, "i": self.context.mpc(0, 1)}[node[1]]
        if kind == "degree":
            return self.context.pi / 180
        if kind == "neg":
            return -self.evaluate(node[1])
        if kind in ("add", "mul", "div"):
            return self.arithmetic(kind, self.evaluate(node[1]), self.evaluate(node[2]))
        if kind == "pow":
            return self.power(self.evaluate(node[1]), self.evaluate(node[2]))
        if kind == "root":
            return self.root(self.evaluate(node[1]), None if node[2] is None else self.evaluate(node[2]))
        if kind == "fact":
            return self.factorial(self.evaluate(node[1]))
        if kind == "binom":
            return self.binomial(self.evaluate(node[1]), self.evaluate(node[2]))
        return self.function(node[1], self.evaluate(node[2]))

    def repeated(self, kind: str, name: str, low: Node, high: Node, body: Node) -> Value:
        first, last = self.evaluate(low), self.evaluate(high)
        if not all(isinstance(end, Fraction) and end.denominator == 1 for end in (first, last)):
            raise Undefined
        before = self.bound.get(name)
        total = Fraction(0) if kind == "sum" else Fraction(1)
        for number in range(int(first), int(last) + 1):
            self.steps += 1
            if self.steps > _MAX_STEPS:
                raise TooBig
            self.bound[name] = Fraction(number)
            total = self.arithmetic("add" if kind == "sum" else "mul", total, self.evaluate(body))
        self.bound.pop(name, None)
        if before is not None:
            self.bound[name] = before
        return total

    def inexact(self, value: Value) -> Any:
        return _real_or_complex(self.context, value)

    def arithmetic(self, kind: str, left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            if left.numerator.bit_length() + left.denominator.bit_length() > _MAX_BITS:
                left = self.inexact(left)
            elif kind == "div" and right == 0:
                raise Undefined
            else:
                return left + right if kind == "add" else left * right if kind == "mul" else left / right
        left, right = self.inexact(left), self.inexact(right)
        if kind == "div" and right == 0:
            raise Undefined
        return left + right if kind == "add" else left * right if kind == "mul" else left / right

    def power(self, base: Value, exponent: Value) -> Value:
        if abs(exponent) > _MAX_POWER or self.context.mag(self.inexact(base)) * abs(exponent) > 10**7:
            raise TooBig
        if base == 0:
            if not isinstance(exponent, Fraction) or exponent <= 0:
                raise Undefined
            return Fraction(0)
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            whole = exponent.numerator
            if isinstance(base, Fraction):
                bits = (base.numerator.bit_length() + base.denominator.bit_length()) * abs(whole)
                if bits <= _MAX_BITS:
                    return base**whole
            return self.inexact(base) ** whole
        return self.context.power(self.inexact(base), self.inexact(exponent))

    def root(self, value: Value, index: Value | None) -> Value:
        if index is None and isinstance(value, Fraction) and value >= 0:
            over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
            if over * over == value.numerator and under * under == value.denominator:
                return Fraction(over, under)
        if index is None:
            return self.context.sqrt(self.inexact(value))
        if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= 1000:
            raise TooBig
        degree = index.numerator
        number = self.inexact(value)
        if degree % 2 and not isinstance(number, self.context.mpc) and number < 0:
            return -self.context.root(-number, degree)  # the real root, as everybody means it
        return self.context.root(number, degree)

    def whole(self, value: Value) -> int:
        if not isinstance(value, Fraction) or value.denominator != 1:
            raise Undefined
        if abs(value) > _MAX_FACTORIAL:
            raise TooBig
        return value.numerator

    def factorial(self, value: Value) -> Value:
        number = self.whole(value)
        if number < 0:
            raise Undefined
        return self.context.factorial(number)

    def binomial(self, over: Value, under: Value) -> Value:
        top, bottom = self.whole(over), self.whole(under)
        if top < 0 or bottom < 0:
            raise Undefined
        return self.context.binomial(top, bottom)

    def function(self, name: str, value: Value) -> Value:
        context = self.context
        if name in ("floor", "ceil"):
            if not isinstance(value, Fraction):
                if isinstance(value, context.mpc) or abs(value - context.nint(value)) < context.mpf(10) ** -20:
                    raise Undefined
                return Fraction(int(context.floor(value) if name == "floor" else context.ceil(value)))
            return Fraction(value.__floor__() if name == "floor" else value.__ceil__())
        if name == "abs":
            return abs(value)
        number = self.inexact(value)
        if abs(number) > 10**6:
            raise TooBig
        if name == "log":
            # base 10 or e, as the writer means: only equal use of it can agree
            return self.logarithm(number) * context.mpf(7) / 11
        if name == "ln":
            return self.logarithm(number)
        if name == "lg":
            return self.logarithm(number) / context.ln(10)
        try:
            return getattr(context, _MPMATH.get(name, name))(number)
        except (ZeroDivisionError, ValueError) as error:
            raise Undefined from error

    def logarithm(self, number: Any) -> Any:
        if number == 0:
            raise Undefined
        return self.context.ln(number)


_MPMATH = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
}  # fmt: skip
