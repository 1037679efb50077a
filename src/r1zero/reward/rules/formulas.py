"""Rules for equations and formulas, and for pairs that can't be equal because they are of different kinds."""

from __future__ import annotations

import re

from r1zero.reward.rules import numeric, words
from r1zero.reward.rules.latex import key
from r1zero.reward.rules.numbers import parse_number
from r1zero.reward.rules.scalars import Compare
from r1zero.reward.rules.structure import matrix, shape, sides, split, tokens
from r1zero.reward.rules.units import split_unit

_FUNCTION_SIDE = re.compile(
    r"[a-zA-Z](?:_\{?\w+\}?)?(?:\^\{-1\})?\([a-zA-Z](?:,[a-zA-Z])*\)|[a-zA-Z]'?(?:_\{?\w+\}?)?|\\[a-z]+"
)
_RELATED = ({"tuple", "union"}, {"tuple", "matrix"}, {"words", "choice"})


def equation(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Equations: x=5 is 5, not y=5; f(x)=.. is its right side, a chain its last side; lines hold up to a factor."""
    ours, theirs = _exact_sides(answer), sides(gold)
    if ours is None and theirs is None:
        return None
    if ours is not None and _contradicts(ours):
        return False
    if ours is not None and theirs is None:
        last = ours[0] if len(ours) == 2 and _names(ours[1]) and not _names(ours[0]) else ours[-1]
        if words.words_of(gold) is not None and not inner and parse_number(gold) is None:
            return None
        return compare(last, gold, inner)
    assert theirs is not None
    if ours is None:
        if _names(theirs[0]) or words.words_of(theirs[0]) or shape(theirs[0]).kind == "tuple":  # type: ignore[union-attr]
            return compare(answer, theirs[-1], inner)
        return None
    if len(ours) == len(theirs) == 2:
        if key(ours[0]) == key(theirs[0]):
            return compare(ours[1], theirs[1], inner)
        if {key(side) for side in ours} == {key(side) for side in theirs}:
            return True
        both = numeric.proportional(f"({ours[0]})-({ours[1]})", f"({theirs[0]})-({theirs[1]})")
        if both is not None:
            return both
        if _names(ours[0]) and _names(theirs[0]) and numeric.constant(ours[1]) is not None:
            return False  # x=5 against y=5
    return None


def approximation(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    r"""``a \approx b``: a gold answer accepts either side; an answer is its exact side, and b must be near it."""
    ours, theirs = split(answer, _NEARLY), split(gold, _NEARLY)
    if ours is None or theirs is None or (len(ours) == len(theirs) == 1):
        return None
    given, wanted = [side for side in ours if side], [side for side in theirs if side]
    if not given or not wanted or any("=" in tokens(side) for side in given):
        return None
    values = [numeric.constant(split_unit(side).body) for side in given]
    if any(one is None for one in values[1:]) or (len(values) > 1 and not numeric.near(values[0], values[1:])):
        return False
    return any(compare(side, form, inner) for side in {given[0], given[-1]} for form in wanted)


_NEARLY = frozenset({r"\approx", r"\simeq", r"\approxeq", r"\doteq"})


def _exact_sides(value: str) -> list[str] | None:
    r"""Sides of an equation; of ``a \approx b`` the exact one."""
    rough = split(value, {r"\approx"})
    if rough and len(rough) == 2 and all(rough):
        return sides(rough[0]) or ["", rough[0]]
    return sides(value)


def _names(side: str) -> bool:
    """Whether a side of an equation only names what is asked for."""
    return bool(_FUNCTION_SIDE.fullmatch(side)) and side not in (r"\pi", "e", "i")


def _contradicts(pieces: list[str]) -> bool:
    """Whether two sides are constants of different value."""
    known = [piece for piece in pieces if piece and numeric.constant(piece) is not None]
    return any(numeric.same_value(piece, known[0]) is False for piece in known[1:])


def value(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Formulas by their values at fixed points, to 38 digits; exact where they are rational."""
    return numeric.same_value(answer, gold)


def kind(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """A number, words, a marked letter, a matrix, a point or interval, a union and a formula exclude each other."""
    ours, theirs = _kind(answer), _kind(gold)
    if ours is None or theirs is None or ours == theirs:
        return None
    return None if {ours, theirs} in _RELATED else False


def _kind(value: str) -> str | None:
    if numeric.constant(value) is not None:
        return "constant"
    if matrix(value) is not None:
        return "matrix"
    got = shape(value)
    if got is not None and got.kind == "tuple":
        return "tuple"
    if r"\cup" in tokens(value) and sides(value) is None and got is not None and got.kind == "single":
        return "union"
    named = words.option(value)
    if named is not None and named[1] and not named[2]:
        return "choice"
    said = words.words_of(value)
    if said is not None and said[1] and words.is_name(*said):
        return "words"
    if sides(value) is not None and not _names(sides(value)[0]):  # type: ignore[index]
        return "equation"
    return "formula" if numeric.is_formula(value) else None
