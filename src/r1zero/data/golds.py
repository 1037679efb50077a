"""Gold answers out of prose: read where the text names one answer, refused where no answer could ever match it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_SAID = re.compile(
    r"(?:\b(?:the|final|correct|my|our)\s+)*\banswer\b\s*(?:\*\*\s*)?(?:(?:is|are|equals|was)\b\s*:?|[:=])(?:\s*\*\*)?\s*",
    re.IGNORECASE,
)
_HOPE = re.compile(r"\s*I hope (?:it|this) is correct\.?\s*$", re.IGNORECASE)
_MATH = re.compile(r"\$[^$]*\$|\\[a-zA-Z]+(?:\{[^{}]*\})*")
_SENTENCES = re.compile(r"[^\W\d_]{2,}\s[^.!?]*(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?]\s+[A-Z][^\W\d_]*\b")
_SENTENCE = re.compile(r"[A-Z](?:[^.!?]*\s[^\W\d_]{2,}){4,}[^.!?]*\.\s*")
LONGEST = 80
"""Characters of an answer that prose names; more is an explanation."""


def stated(text: str) -> str | None:
    """The answer that a text names after "the answer is", "Final Answer:" or in an answer tag; None for none or two.

    >>> stated("First add. The answer is 3.")
    '3'
    """
    text = _HOPE.sub("", text)
    tagged = {found.strip() for found in _TAG.findall(text)}
    if tagged:
        return tagged.pop() if len(tagged) == 1 else None
    marks = list(_SAID.finditer(text))
    named = set()
    for mark in marks:
        # "Final Answer: The final answer is 3": the first mark names nothing of its own.
        rest = text[mark.end() :]
        if _SAID.match(rest):
            continue
        line = rest.split("\n", 1)[0] if rest.strip() else ""
        sentence = re.split(r"(?<=\S)[.!?]\s+(?=[A-Z])", line, maxsplit=1)[0]
        named.add(sentence.strip().rstrip("*").strip().rstrip(".").strip())
    if len(named) != 1:
        return None
    answer = named.pop()
    return answer if answer and len(answer) <= LONGEST else None


def is_prose(text: str) -> bool:
    """Whether a text is sentences, or speaks of an answer, so that no extracted answer can be equal to it."""
    bare = _MATH.sub(" ", text)
    return bool(_TAG.search(text) or _SAID.search(bare) or _SENTENCES.search(bare) or _SENTENCE.fullmatch(bare))


def read(value: Any) -> Any:
    r"""A raw gold value with prose replaced by the answer it names.

    Texts with ``####`` or a box are left alone: they say themselves where the answer is.

    Raises:
        ValueError: prose that names no answer, or several.
    """
    if isinstance(value, (bytes, bytearray)):
        raise ValueError("holds bytes that are not UTF-8 text")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [read(item) for item in value]
    if not isinstance(value, str) or names_its_answer(value) or not is_prose(value):
        return value
    answer = stated(value)
    if answer is None:
        short = value if len(value) <= 60 else value[:57] + "..."
        raise ValueError(f"holds prose that names no single answer ({short!r})")
    return answer


def names_its_answer(text: str) -> bool:
    """Whether a worked solution ends in ``####`` or has a box."""
    return "####" in text or "\\boxed" in text or "\\fbox" in text
