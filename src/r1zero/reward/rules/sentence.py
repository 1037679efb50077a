r"""Sentences in answer tags: the one value that a plain statement gives.

Grammar: a sentence with one math span, or with one number behind "is", "are", "has", "equals", "=" and the like, and at
    most a unit or a counted thing behind it. A tail ", not 6" is dropped.
Compares: the span or the number, by all rules.
Pays: "The polynomial is $x^2+1$."; "Therefore, Anna has 42 apples left."
Never pays: a sentence with several numbers or spans, with a hedge, or with a word that changes the value ("twice the
    number 5", "every number below 5", "one over 2").
"""

from __future__ import annotations

import re
from functools import lru_cache

from r1zero.reward.rules.latex import canonical
from r1zero.reward.rules.number import in_words
from r1zero.reward.rules.quantity import split_unit
from r1zero.reward.rules.structure import tokens
from r1zero.reward.rules.word import hedges, raw_text

EXAMPLES = (
    ("The polynomial is $x^2+1$.", "x^2+1", True), ("Therefore, Anna has 42 apples left.", "42", True),
    ("The answer is 5, not 6.", "5", True), ("twice the number 5", "5", False),
    ("every number below 5 works", "5", False),
    ("one over 2 is the answer here", "2", False), ("The numbers are 5 and 6.", "5", False),
)  # fmt: skip

_NUMBER = re.compile(
    r"-?(?:\\\$)?(?:\d+\\frac ?(?:\d ?\d|\{\d+\}\{\d+\})|\\frac ?(?:\d ?\d|\{-?\d+\}\{-?\d+\})"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:/\d+)?(?:\\?%)?"
)
_SPAN = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_DENIAL = re.compile(r", (?:and )?not \$?-?[\d.]*\d\$?[.\s]*$")
_SAYS = re.compile(
    r"(?:^|[\s:=])(?:is|are|was|were|be|has|have|had|gets?"
    r"|got|equals?|equal to|costs?|needs?|earn(?:s|ed)?|makes?|sold|sells|spent"
    r"|spends?|paid|pays?|total of|becomes|obtain|=|:)"
    r"(?: exactly| only| simply| just| thus| then| therefore| now| a total of| to| at)*[:=]?\s*$",
    re.IGNORECASE,
)
_CHANGING = (
    "twice double triple half thrice squared cubed minus plus times over under below above less more fewer greater "
    "smaller negative opposite inverse reciprocal factorial percent power divided multiplied without every "
    "unless until between or modulo mod"
)
_CHANGED = frozenset(_CHANGING.split())


def without_denial(text: str) -> str:
    """Text without a tail that denies another value ("5, not 6")."""
    return _DENIAL.sub("", text) or text


@lru_cache(maxsize=16384)
def value_of(text: str) -> str | None:
    """What a sentence gives as its value, canonical; "" for none or several; None when it is not a sentence."""
    spelled = canonical(text)
    plain = raw_text(spelled)
    if len([token for token in tokens(plain) if token.isalpha() and len(token) > 1]) < 2 or plain.count(" ") < 2:
        return None
    if len(text) > 600 or hedges(canonical(text)):
        return ""
    spans = list(_SPAN.finditer(text))
    if len(spans) == 1:
        span = spans[0]
        before, after = text[: span.start()], text[span.end() :]
        body = next(part for part in span.groups() if part is not None)
        return canonical(body) if not re.search(r"\d", before + after) and _states(before, after) else ""
    plain = raw_text(canonical(text))
    found = list(_NUMBER.finditer(plain))
    if spans or len(found) != 1:
        return ""
    number = found[0]
    before, after = plain[: number.start()], plain[number.end() :]
    return canonical(number.group()) if _states(before, after) else ""


def _states(before: str, after: str) -> bool:
    """Whether the words round a value say that the answer is that value, in a unit or not."""
    rest = after.strip(" .!*~")
    behind = split_unit(f"5 {canonical(rest)}".strip())
    if not _SAYS.search(before) or behind.body != "5" or behind.scale != 1:
        return False
    return not any(word in _CHANGED or in_words(word) is not None for word in re.findall(r"[a-z]+", before.lower()))
