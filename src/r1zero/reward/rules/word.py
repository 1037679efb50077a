r"""Words: names, yes and no, curves, the empty set, infinity.

Grammar: text of nothing but letters, in `\text{}` or of four letters and more; `\emptyset`, "no solution", `\infty`.
Compares: lower case without articles; sets and infinity by sign or word.
Pays: `Evelyn` for `\text{evelyn}`, "the ellipse" for "ellipse", "all real numbers" for `\mathbb{R}`.
Never pays: another word, more words than the gold has, an answer that takes itself back or leaves itself open
    ("maybe 7", "not 7"), a number for a word, `\frac10` for infinity.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from r1zero.reward.rules.number import parse_number
from r1zero.reward.rules.structure import membership, shape, sides, tokens

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    ("Evelyn", r"\text{evelyn}", True), (r"\text{no solution}", r"\emptyset", True), ("infinity", r"\infty", True),
    (r"\text{all real numbers}", r"\mathbb{R}", True), (r"\text{not even}", r"\text{even}", False),
    (r"\text{hyperbola}", r"\text{ellipse}", False), (r"\text{maybe }7", "7", False),
)  # fmt: skip

_HEDGES = (
    "maybe perhaps possibly probably not likely unlikely guess unsure either neither nor might could isn't never "
    "approximately about around roughly between cannot can't doesn't depends unknown least most than wrong except "
    "incorrect"
)
HEDGES = frozenset(_HEDGES.split())
_ARTICLES = {"a", "an", "the"}
_SHORT = {"yes", "no", "odd", "even", "all", "none", "red", "blue", "true", "dne", "one", "two", "six", "ten"}
_REALS = {("all", "real", "numbers"), ("all", "reals"), ("real", "numbers"), ("reals",), ("all", "real", "number")}
_EMPTY = {("empty", "set"), ("no", "solution"), ("no", "solutions"), ("null", "set"), ("no", "real", "solutions")}
_REAL_SETS = {r"\mathbb{R}", r"x\in\mathbb{R}", r"(-\infty,\infty)", r"(-\infty,+\infty)", "R"}
_INFINITIES = {"infinity", "inf", "infinite", "oo", "positive infinity", "plus infinity"}
_LETTERS = re.compile(r"[a-zA-Z]{2,}")


@lru_cache(maxsize=16384)
def raw_text(text: str) -> str:
    r"""Canonical text with its ``\text{}`` wrappers taken off."""
    return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).strip()


@lru_cache(maxsize=16384)
def words_of(text: str) -> tuple[tuple[str, ...], bool] | None:
    r"""Words of canonical text that is nothing but words, and whether it says so with ``\text``.

    Lower case, articles dropped, hyphens and stops ignored. None for anything with digits or signs, and for
    one or two plain letters, which are a product.
    """
    explicit = "\\text{" in text
    plain = raw_text(text)
    if not plain or re.search(r"[^a-zA-Z\s.'\-]|^-", plain):
        return None
    if not _LETTERS.search(plain):
        return None
    words = tuple(word for word in re.split(r"[\s.\-]+", plain.lower()) if word)
    kept = tuple(word for word in words if word not in _ARTICLES) or words
    return kept, explicit


def is_name(words: tuple[str, ...], explicit: bool) -> bool:
    """Whether plain letters are a word rather than a product."""
    return explicit or len(words) > 1 or len(words[0]) >= 4 or words[0] in _SHORT


def is_empty_set(text: str) -> bool:
    """Whether canonical text says the empty set."""
    if text in (r"\emptyset", r"\{\}", r"\emptyset ", r"\{\emptyset\}"):
        return text != r"\{\emptyset\}"
    words = words_of(text)
    return words is not None and words[0] in _EMPTY


def infinity_of(text: str) -> int:
    """1 or -1 when canonical text says infinity with that sign, else 0."""
    plain = raw_text(text).lower().strip()
    sign = -1 if plain.startswith("-") else 1
    plain = plain.lstrip("+-").strip()
    if plain.startswith("negative ") or plain.startswith("minus "):
        sign, plain = -1, plain.split(" ", 1)[1]
    return sign if plain in _INFINITIES or plain == r"\infty" else 0


def hedges(text: str) -> set[str]:
    """Words in canonical text that take an answer back or leave it open."""
    low = raw_text(text).lower()
    return {word for word in re.findall(r"[a-z]+(?:'t)?", low) if word in HEDGES or word.endswith("n't")}


def letters_of(text: str) -> set[str]:
    """Single letters of canonical text, commands and text left out, case kept."""
    return {letter for token in tokens(text) if token.isalpha() for letter in token}


def infinity(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Infinity by sign or by word; it equals nothing finite, and 1/0 is not infinity."""
    ours, theirs = infinity_of(answer), infinity_of(gold)
    if not ours and not theirs:
        return None
    if ours and theirs:
        return ours == theirs
    other = gold if ours else answer
    return None if sides(other) or membership(other)[0] else False


def empty_set(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    r"""``\emptyset``, ``\{\}`` and "no solution" are one answer."""
    ours, theirs = is_empty_set(answer), is_empty_set(gold)
    return (ours and theirs) if ours or theirs else None


def word(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Words: letter case and articles are free, the rest is equal."""
    wanted, given = words_of(gold), words_of(answer)
    for ours, theirs in ((given, gold), (wanted, answer)):
        if ours and ours[0] in _REALS:
            return theirs in _REAL_SETS or ((said := words_of(theirs)) is not None and said[0] in _REALS)
    if parse_number(gold, False) or parse_number(answer, False):
        return None
    if wanted and given:
        if wanted[0] == given[0]:
            return True if is_name(*wanted) or is_name(*given) else None
        if any((got := shape(side)) is not None and got.kind == "list" for side in (answer, gold)):
            return None
        if wanted[1] or given[1] or is_name(*wanted) != is_name(*given):
            return False
        return None if sorted("".join(wanted[0])) == sorted("".join(given[0])) else False
    for said, other in ((wanted, answer), (given, gold)):
        if said and said[1] and is_name(*said):
            got = shape(other)
            return None if sides(other) or got is None or got.kind == "list" else False
    return None
