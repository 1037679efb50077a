"""Values of formulas: exact fractions where possible, else as many digits as asked for; sizes are bounded first."""

from __future__ import annotations

import math
import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

from r1zero.reward.rules.formula import Node, parse

DIGITS = 50
_MAX_BITS = 20_000
_MAX_WHOLE_BITS = 400_000
_MAX_POWER = 10**5
_MAX_FACTORIAL = 9999
_MAX_STEPS = 400

Value = Any  # Fraction, mpf or mpc


class Undefined(Exception):
    """The formula has no value at a point (a division by zero, a logarithm of zero)."""


class TooBig(Exception):
    """The value is too costly to compute."""


@lru_cache(maxsize=2)
def context_of(digits: int) -> Any:
    """Arithmetic of mpmath with so many digits, apart from its global one."""
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.dps = digits
    return context


@lru_cache(maxsize=65536)
def value_at(text: str, point: str, digits: int = DIGITS) -> Value:
    """Value of a formula at a named point; raises `Undefined` or `TooBig`."""
    formula = parse(text)
    assert formula is not None
    context = context_of(digits)
    value = _Evaluator(context, point).evaluate(formula.tree)
    if not isinstance(value, Fraction) and not context.isfinite(value):
        raise Undefined
    return value


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _limit(value: Fraction) -> int:
    """Bits that an exact value may have; whole numbers are cheap."""
    return _MAX_WHOLE_BITS if value.denominator == 1 else _MAX_BITS


_POINTS: dict[str, tuple[int | Fraction, int | Fraction]] = {
    "above": (1, 1), "inside": (Fraction(1, 14), Fraction(1, 2)), "half": (2, Fraction(1, 2)), "large": (3, 5),
    "below": (-1, -2), "deep": (-5, -3),
}  # fmt: skip
"""Start and factor of the share between 0 and 1 that a letter's name gives."""


def coordinate(name: str, point: str) -> Fraction:
    """The value of a letter at a point: a fraction that depends on its name alone, so that trees can be cached."""
    if point.startswith("whole"):
        return Fraction(int(point[5:]) + zlib.crc32((name + point).encode()) % 5)
    start, factor = _POINTS[point]
    return start + Fraction(factor) * Fraction(zlib.crc32(name.encode()) % 9973 + 1, 10007)


def inexact(context: Any, value: Value) -> Any:
    """A value as mpf or mpc."""
    if isinstance(value, Fraction):
        return context.mpf(value.numerator) / value.denominator
    return value


def quotient(left: Value, right: Value) -> Value:
    """One value over another; raises `Undefined` for a division by zero."""
    return _Evaluator(context_of(DIGITS), "").arithmetic("div", left, right)


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
            return self.bound[node[1]] if node[1] in self.bound else coordinate(node[1], self.point)
        if kind == "app":
            at = [self.evaluate(argument) for argument in node[2:]]
            shown = [str(one) if isinstance(one, Fraction) else self.context.nstr(one, 25) for one in at]
            return coordinate(f"{node[1]}({','.join(shown)})", "large")
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
        return inexact(self.context, value)

    def arithmetic(self, kind: str, left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            if _bits(left) > _limit(left):
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
            if isinstance(base, Fraction) and _bits(base) * abs(whole) <= _limit(base):
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
        return Fraction(math.factorial(number))

    def binomial(self, over: Value, under: Value) -> Value:
        top, bottom = self.whole(over), self.whole(under)
        if top < 0 or bottom < 0:
            raise Undefined
        return Fraction(math.comb(top, bottom))

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
