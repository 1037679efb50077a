"""Words by which a response looks back at itself."""

from __future__ import annotations

import re
from collections import Counter

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

_PATTERN = re.compile(
    r"(?<!\w)(" + "|".join(r"\s+".join(map(re.escape, word.split())) for word in KEYWORDS) + r")(?!\w)"
)


def spans(text: str) -> list[tuple[int, int, str]]:
    """(start, end, keyword) of every keyword in a text, as whole words whatever their case.

    "rechecked" is not "recheck"; the words of a phrase may stand on two lines.
    """
    return [(m.start(), m.end(), " ".join(m.group(1).split())) for m in _PATTERN.finditer(_lowered(text))]


def count(text: str) -> Counter[str]:
    """How often each keyword stands in a text."""
    return Counter(word for _, _, word in spans(text))


def _lowered(text: str) -> str:
    """The text in lower case with every character in its place; a few letters have lower cases of two characters."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
