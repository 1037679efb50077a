r"""Intervals and inequalities of one variable, and their unions.

Grammar: `[2,\infty)`, `x\in(0,1]`, `2\le x<5`, `x<1\text{ or }x>3`, `x>1\text{ and }x<3`, `(0,1)\cup\{2\}`.
Compares: the pieces without order, their ends by value and by whether they belong to it.
Pays: an interval for an inequality; `x>3\text{ or }x<1` for `(-\infty,1)\cup(3,\infty)`; `x\in I` for `I`.
Never pays: "and" for "or"; a closed end for an open one; another variable; one inequality for an interval, which
    copies a question of the form "write it as an interval"; a set or a list for an interval.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from r1zero.reward.rules import values
from r1zero.reward.rules.structure import CONSTANTS, membership, shape, split, tokens

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    (r"[2,\infty)", r"x \geq 2", True), (r"2 \le x", r"x \geq 2", True), ("-x > -1", "x < 1", True),
    (r"(-\infty,1)\cup(3,\infty)", r"x<1\text{ or }x>3", True), (r"x\in[-2,7]", "[-2,7]", True),
    (r"x<1\text{ and }x>3", r"x<1\text{ or }x>3", False), (r"(2,\infty)", r"x \geq 2", False), ("y>2", "x>2", False),
)  # fmt: skip

_RELATIONS = {"<": "<", ">": ">", r"\leq": "<=", r"\geq": ">="}
_VARIABLE = re.compile(r"[a-zA-Z](?:_\{?\w+\}?)?(?:\([a-z]\))?|\\[a-z]+|\|[a-zA-Z]\|")
_OR = frozenset({r"\cup", r"\text{or}", "or"})
_AND = frozenset({r"\text{and}", "and", r"\cap"})


@dataclass(frozen=True)
class Interval:
    """Ends of an interval of the reals as canonical text; a single number has it at both ends."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool


@dataclass(frozen=True)
class Region:
    """A union of intervals, the variable that lies in it ("" if none is named), and whether inequalities say so."""

    pieces: tuple[Interval, ...]
    letter: str
    unequal: bool


def _inequality(text: str) -> tuple[str, Interval] | None:
    """The variable and the interval of an inequality between one variable and values."""
    parts = tokens(text)
    found = [token for token in parts if token in _RELATIONS]
    if not 1 <= len(found) <= 2 or "=" in parts or r"\neq" in parts:
        return None
    pieces = split(text, frozenset(_RELATIONS))
    if pieces is None or len(pieces) != len(found) + 1 or not all(pieces):
        return None
    signs = [_RELATIONS[token] for token in found]
    names = [bool(_VARIABLE.fullmatch(piece.removeprefix("-"))) and piece not in CONSTANTS for piece in pieces]
    if len(pieces) == 2:
        if names[0] == names[1]:
            return None
        if names[1]:
            pieces, signs = pieces[::-1], [_flipped(signs[0])]
        name, end = pieces
        if name[0] == "-":
            name, end, signs = name[1:], f"-({end})", [_flipped(signs[0])]
        closed = "=" in signs[0]
        if signs[0][0] == ">":
            return name, Interval(end, closed, r"\infty", False)
        return name, Interval(r"-\infty", False, end, closed)
    if names != [False, True, False] or signs[0][0] != signs[1][0] or pieces[1][0] == "-":
        return None
    if signs[0][0] == ">":
        pieces, signs = pieces[::-1], signs[::-1]
    return pieces[1], Interval(pieces[0], "=" in signs[0], pieces[2], "=" in signs[1])


def _flipped(sign: str) -> str:
    """The relation read from right to left."""
    return {"<": ">", ">": "<"}[sign[0]] + sign[1:]


@lru_cache(maxsize=16384)
def region(text: str) -> Region | None:
    """The union of intervals that canonical text describes; None for any other text."""
    letter, bare = membership(text)
    parts = split(bare, _OR)
    if parts is None or not all(parts):
        return None
    pieces: list[Interval] = []
    names, unequal = {letter} - {""}, False
    for part in parts:
        if part == r"\mathbb{R}":
            pieces.append(Interval(r"-\infty", False, r"\infty", False))
            continue
        got = shape(part)
        if got is not None and got.kind == "tuple" and len(got.members) == 2 and got.brackets[0] in "([":
            low, high = got.members
            pieces.append(Interval(low, got.brackets[0] == "[", high, got.brackets[1] == "]"))
        elif got is not None and got.kind == "set" and len(parts) > 1:
            pieces.extend(Interval(member, True, member, True) for member in got.members)
        else:
            joined = [_inequality(piece) for piece in split(part, _AND) or []]
            known = [pair for pair in joined if pair is not None]
            met = _met([piece for _, piece in known]) if known and len(known) == len(joined) else None
            if met is None:
                return None
            pieces.extend(met)
            names |= {name for name, _ in known}
            unequal = True
    return Region(tuple(pieces), names.pop() if names else "", unequal) if len(names) <= 1 else None


def _met(pieces: list[Interval]) -> list[Interval] | None:
    """What one or two intervals share; None when that can't be decided."""
    if len(pieces) == 1:
        return pieces
    if len(pieces) != 2:
        return None
    first, second = pieces if pieces[0].low != r"-\infty" else pieces[::-1]
    if first.high != r"\infty" or second.low != r"-\infty" or first.low == r"-\infty" or second.high == r"\infty":
        return None
    low, high = values.constant(first.low), values.constant(second.high)
    if low is not None and high is not None and low >= high:
        return []
    return [Interval(first.low, first.low_closed, second.high, second.high_closed)]


def interval(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Intervals, inequalities of one variable, and unions of both."""
    letter, bare = membership(answer)
    other, wanted = membership(gold)
    if letter and other and letter != other:
        return False
    ours, theirs = region(answer), region(gold)
    if ours is None or theirs is None:
        return compare(bare, wanted, inner) if (letter or other) and not (ours or theirs) else None
    if not (ours.unequal or theirs.unequal or letter or other or len(ours.pieces) > 1 or len(theirs.pieces) > 1):
        return None  # two pairs of brackets may be points
    if ours.letter and theirs.letter and ours.letter != theirs.letter:
        return False
    if ours.unequal and not theirs.unequal and len(theirs.pieces) < 2:
        return False
    if len(ours.pieces) != len(theirs.pieces):
        return None if r"\cup" in gold or r"\cup" in answer else False
    left = list(ours.pieces)
    for piece in theirs.pieces:
        match = next((one for one in left if _same(one, piece, compare)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same(ours: Interval, theirs: Interval, compare: Compare) -> bool:
    closed = (ours.low_closed, ours.high_closed) == (theirs.low_closed, theirs.high_closed)
    return closed and compare(ours.low, theirs.low) and compare(ours.high, theirs.high)
