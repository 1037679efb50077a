r"""What the rules need to know about text in answers: words, letters of a choice, hedges, sentences."""

from __future__ import annotations

import re
from functools import lru_cache

from r1zero.reward.rules.structure import tokens

_HEDGES = (
    "maybe perhaps possibly probably not likely unlikely guess unsure either neither nor might could isn't never "
    "approximately about around roughly between cannot can't doesn't depends unknown least most than wrong except "
    "incorrect"
)
HEDGES = frozenset(_HEDGES.split())
_ARTICLES = {"a", "an", "the"}
_SHORT = {"yes", "no", "odd", "even", "all", "none", "red", "blue", "true", "dne", "one", "two", "six", "ten"}
_EMPTY = {("empty", "set"), ("no", "solution"), ("no", "solutions"), ("null", "set"), ("no", "real", "solutions")}
_INFINITIES = {"infinity", "inf", "infinite", "oo", "positive infinity", "plus infinity"}
_SENTENCE_NUMBER = re.compile(
    r"-?(?:\\\$)?(?:\d+\\frac ?(?:\d ?\d|\{\d+\}\{\d+\})|\\frac ?(?:\d ?\d|\{-?\d+\}\{-?\d+\})"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:/\d+)?(?:\\?%)?"
)
_LETTERS = re.compile(r"[a-zA-Z]{2,}")
_OPTION = re.compile(
    r"(?:(?:option|choice|answer|statement|\\text\{(?:option|choice|answer|statement)\}) ?)?"
    r"(?P<mark>\(?)(?P<letter>[A-Za-z])(?P<close>[).:]?)(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)


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
    if not plain or re.search(r"[^a-zA-Z\s.'\-]", plain):
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


def infinity(text: str) -> int:
    """1 or -1 when canonical text says infinity with that sign, else 0."""
    plain = raw_text(text).lower().strip()
    sign = -1 if plain.startswith("-") else 1
    plain = plain.lstrip("+-").strip()
    if plain.startswith("negative ") or plain.startswith("minus "):
        sign, plain = -1, plain.split(" ", 1)[1]
    return sign if plain in _INFINITIES or plain == r"\infty" else 0


@lru_cache(maxsize=16384)
def option(text: str) -> tuple[str, bool, str] | None:
    r"""Letter of a choice, whether it is marked as one by brackets or text, and what follows it.

    "(C)", "C", ``\text{(C)}``, "C.", "Option C", "(C) 12". A letter with something behind it counts only when it
    is a marked capital.
    """
    plain = raw_text(text)
    match = _OPTION.fullmatch(plain)
    if match is None:
        return None
    letter, rest = match["letter"], match["rest"].strip()
    if (match["mark"] == "(") != (match["close"] == ")") and match["close"] != ")":
        return None
    named = match.start("mark") > 0
    marked = bool(match["mark"]) or bool(match["close"]) or named or "\\text{" in text
    if rest:
        enclosed = match["close"] in (")", ".", ":")
        if not enclosed or letter not in "ABCDEFGHIJ":
            return None
        rest = rest.lstrip(".: ")
        if rest[:1] in ("(", "+", "=", "^", "_", "/", "!") or rest.startswith("\\cdot"):
            return None  # (A)(B) is a product
    return letter, marked, rest


def hedges(text: str) -> set[str]:
    """Words in canonical text that take an answer back or leave it open."""
    low = raw_text(text).lower()
    return {word for word in re.findall(r"[a-z]+(?:'t)?", low) if word in HEDGES or word.endswith("n't")}


@lru_cache(maxsize=16384)
def sentence_number(text: str) -> str | None:
    """The one number of a sentence; "" when it has none or several, or takes it back; None for no sentence.

    A sentence is text with two or more words that are neither commands nor function names.
    """
    plain = raw_text(text)
    words = [token for token in tokens(plain) if token.isalpha() and len(token) > 1]
    if len(words) < 2 or plain.count(" ") < 2:
        return None
    if hedges(text) or len(plain) > 600:
        return ""
    found = _SENTENCE_NUMBER.findall(plain)
    return found[0] if len(found) == 1 else ""


def letters_of(text: str) -> set[str]:
    """Single letters of canonical text, commands and text left out, case kept."""
    return {letter for token in tokens(text) if token.isalpha() for letter in token}
