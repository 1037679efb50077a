r"""The rules that compare two answers, in the order of ``compare.RULES``: one topic each, named in every verdict.

A rule gets an answer and a gold answer in canonical spelling and says True, False, or None when the pair is
none of its business or it can't be sure. The first that knows decides. The topics and policies are those of
the README's verifier section.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from r1zero.reward.rules import words
from r1zero.reward.rules.latex import key
from r1zero.reward.rules.numbers import parse_number, same_number
from r1zero.reward.rules.structure import membership, shape, sides, split, unbracketed
from r1zero.reward.rules.units import conflict, names_unit, split_unit


class Compare(Protocol):
    """Comparison of two parts of an answer with the same rules."""

    def __call__(self, answer: str, gold: str, inner: bool = True, /) -> bool:
        """Whether the parts are equal; ``inner``: they stand in brackets or a list."""


Rule = Callable[[str, str, Compare, bool], bool | None]

_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16, "binary": 2, "ternary": 3, "octal": 8, "decimal": 10, "hex": 16, "hexadecimal": 16,
}  # fmt: skip
_BASED = re.compile(
    r"\(?(?P<digits>-?\d[0-9A-F.,]*|-?[A-F]+\d[0-9A-F]*)\)?"
    r"(?:_(?:\{(?P<braced>\d+)\}|(?P<bare>\d+)|\{?\\text\{(?P<word>[a-z ]+)\}\}?|\{(?P<plain>[a-z]+)\})"
    r"|(?:\\text\{| )?(?:in |\()?base(?:-| )?(?P<said>\w+)\)?\}?)"
)
_CLOCK = re.compile(r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?(?P<half>[ap]m)?")


def text(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Equal canonical spelling."""
    return True if key(answer) == key(gold) else None


def hedge(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """An answer that takes itself back or leaves itself open ("maybe", "not 7") is wrong."""
    return False if words.hedges(answer) - words.hedges(gold) else None


def choice(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Letters of a choice: (C) = C; the case counts; a letter with its value is that letter."""
    wanted = words.option(gold)
    if wanted is None:
        return None
    given = words.option(answer)
    letter, marked, rest = wanted
    if given is not None:
        return given[0] == letter
    if rest:
        return compare(answer, rest, False)
    return (
        False if marked and letter.isupper() and words.sentence_number(answer) is None and not sides(answer) else None
    )


def infinity(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Infinity by sign or by word; it equals nothing finite, and 1/0 is not infinity."""
    ours, theirs = words.infinity(answer), words.infinity(gold)
    if not ours and not theirs:
        return None
    if ours and theirs:
        return ours == theirs
    other = gold if ours else answer
    return None if sides(other) or membership(other)[0] else False


def empty_set(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    r"""``\emptyset``, ``\{\}`` and "no solution" are one answer."""
    ours, theirs = words.is_empty_set(answer), words.is_empty_set(gold)
    return (ours and theirs) if ours or theirs else None


def word(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Words: letter case and articles are free, the rest is equal."""
    wanted, given = words.words_of(gold), words.words_of(answer)
    if parse_number(gold, False) or parse_number(answer, False):
        return None
    if wanted and given:
        if wanted[0] == given[0]:
            return True if words.is_name(*wanted) or words.is_name(*given) else None
        if any((got := shape(side)) is not None and got.kind == "list" for side in (answer, gold)):
            return None
        if wanted[1] or given[1] or words.is_name(*wanted) != words.is_name(*given):
            return False
        return None if sorted("".join(wanted[0])) == sorted("".join(given[0])) else False
    for said, other in ((wanted, answer), (given, gold)):
        if said and said[1] and words.is_name(*said):
            got = shape(other)
            return None if sides(other) or got is None or got.kind == "list" else False
    return None


def base(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Numbers with a base: same digits, same base; the base may be left out; never by value."""
    wanted, given = _based(gold), _based(answer)
    if wanted is None and given is None:
        return None
    if wanted and given:
        return wanted == given
    if wanted:
        plain = unbracketed(answer)
        return plain.replace(",", "").lstrip("0") == wanted[0] if re.fullmatch(r"[-0-9A-F.,]+", plain) else False
    assert given is not None
    return compare(given[0], gold, inner) if given[1] == 10 else False


def _based(value: str) -> tuple[str, int] | None:
    match = _BASED.fullmatch(value) or _BASED.fullmatch(re.sub(r"\s+", " ", words.raw_text(value)))
    if match is None:
        return None
    name = (match["word"] or match["plain"] or match["said"] or "").strip()
    number = match["braced"] or match["bare"] or (name if name.isdigit() else "")
    radix = int(number) if number else _BASES.get(name, 0)
    return (match["digits"].replace(",", "").lstrip("0") or "0", radix) if 2 <= radix <= 36 else None


def clock(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Times and ratios, by their text: 1:00 is not 12:00, 1:5 is not 3:15; a.m. or p.m. may be left out."""
    if ":" not in answer and ":" not in gold:
        return None
    ours, theirs = _time(answer), _time(gold)
    if ours is not None and theirs is not None:
        return ours[:3] == theirs[:3] and (ours[3] == theirs[3] or not ours[3] or not theirs[3])
    if ":" not in gold:
        return None
    if ":" not in answer:
        return None if sides(gold) or shape(gold) is None or r"\{" in gold else False
    left, right = split(answer, {":"}), split(gold, {":"})
    if left is None or right is None or len(left) != len(right) or not all(left) or not all(right):
        return None
    return all(compare(ours, theirs) for ours, theirs in zip(left, right, strict=True))


def _time(value: str) -> tuple[int, int, int, str] | None:
    plain = words.raw_text(value).lower().replace(".", "").replace(" ", "")
    match = _CLOCK.fullmatch(plain)
    if match is None:
        return None
    return int(match["hour"]), int(match["minute"]), int(match["second"] or 0), match["half"] or ""


def quantity(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Units, percent and money: optional on either side, two different units are wrong; 0.28 is 28%, never 28."""
    ours, theirs = split_unit(answer), split_unit(gold)
    if not ours.unit and theirs.unit:
        ours = names_unit(answer, theirs.unit) or ours
    if ours.unit and not theirs.unit:
        theirs = names_unit(gold, ours.unit) or theirs
    if (ours.body, theirs.body) == (answer, gold):
        return None
    if ours.percent != theirs.percent and (ours.unit == () or theirs.unit == ()):
        left, right = parse_number(ours.body, not inner), parse_number(theirs.body, not inner)
        if left and right:
            share = 100 if ours.percent else 1
            other = 100 if theirs.percent else 1
            return left.value == right.value or left.value * other == right.value * share
    if any(_is_listed(side) for side in (ours.body, theirs.body)):
        return None  # the unit belongs to the last member
    if conflict(ours.unit, theirs.unit):
        return False
    if ours.scale != 1 or theirs.scale != 1:
        left, right = parse_number(ours.body, not inner), parse_number(theirs.body, not inner)
        return left.value * ours.scale == right.value * theirs.scale if left and right else None
    return compare(ours.body, theirs.body, inner)


def _is_listed(body: str) -> bool:
    got = shape(body)
    return (got is None or got.kind == "list" or body[-1:] in ",;") and parse_number(body) is None


def number(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Plain numbers by exact value: 1/2 = 0.5 = .50, 025 = 25, 1,000 = 1000, 4.5e3 = 4500; 0.33 is not 1/3."""
    left, right = parse_number(unbracketed(answer), not inner), parse_number(unbracketed(gold), not inner)
    return same_number(left, right) if left and right else None
