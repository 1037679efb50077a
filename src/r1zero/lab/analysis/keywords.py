"""Words by which a response looks back at itself."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

KEYWORDS = (
    "recheck",
    "rethink",
    "reassess",
    "reevaluate",
    "re-evaluate",
    "reevaluation",
    "re-examine",
    "reexamine",
    "reconsider",
    "reanalyze",
    "double-check",
    "check again",
    "think again",
    "verify again",
    "go over the steps",
)
"""The paper's list."""
AHA = ("aha", "wait")
"""Words of the paper's aha cases, which its list lacks: for excerpts alone, never counted as self-reflection."""


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    phrases = (r"\s+".join(map(re.escape, word.split())) for word in words)
    return re.compile(r"(?<!\w)(" + "|".join(phrases) + r")(?!\w)")


def spans(text: str, words: tuple[str, ...] = KEYWORDS) -> list[tuple[int, int, str]]:
    """(start, end, word) of every one of the words in a text, as whole words whatever their case.

    "rechecked" is not "recheck"; the words of a phrase may stand on two lines.
    """
    return [(m.start(), m.end(), " ".join(m.group(1).split())) for m in _pattern(words).finditer(_lowered(text))]


def count(text: str, words: tuple[str, ...] = KEYWORDS) -> Counter[str]:
    """How often each of the words stands in a text."""
    return Counter(word for _, _, word in spans(text, words))


def _lowered(text: str) -> str:
    """The text in lower case with every character in its place; a few letters have lower cases of two characters."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
