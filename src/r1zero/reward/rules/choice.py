r"""Choices: the letter of a multiple-choice question.

Grammar: `C`, `(C)`, `\text{(C)}`, `C.`, "Option C", `(C) 12`; a letter with a value behind it is a marked capital.
Compares: the letters, with their case; a value where the other side names no letter.
Pays: another way of marking the letter; the letter with any value behind it; the value behind it for that value.
Never pays: another letter, several letters (`(C) 5 (D) 6`), a value for a marked letter, `x` for `X`, a product
    `(A)(B)`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from r1zero.reward.rules.structure import sides
from r1zero.reward.rules.word import raw_text, words_of

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    ("C", r"\text{(C)}", True), (r"(C)\ 12", r"\text{(C)}", True), (r"\textbf{(B)} 12", "12", True),
    ("c", r"\text{(C)}", False), ("A, C", "C", False), ("(C) 5 (D) 6", "C", False), ("12", r"\text{(C)}", False),
)  # fmt: skip

_OPTION = re.compile(
    r"(?:(?:option|choice|answer|statement|\\text\{(?:option|choice|answer|statement)\}) ?)?"
    r"(?P<mark>\(?)(?P<letter>[A-Za-z])(?P<close>[).:]?)(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)


_MORE = re.compile(r"\b(?:or|and|not|if)\b|\([A-J]\)|\b(?:squared|cubed|dozen|half|halves)\b")
"""What makes several answers of a letter with a value behind it, or another one."""


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
        if rest[:1] in set("(+=^_/!,;") or rest.startswith("\\cdot") or _MORE.search(rest):
            return None  # (A)(B) is a product, and "(A) 5 (B) 6" no choice
    return letter, marked, rest


def choice(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Letters of a choice; a letter with its value is that letter."""
    given, wanted = option(answer), option(gold)
    if wanted is None:
        # (B) 12 for 12
        return compare(given[2], gold, False) if given is not None and given[2] and words_of(given[2]) is None else None
    letter, marked, rest = wanted
    if given is not None:
        return given[0] == letter
    if rest:
        return compare(answer, rest, False)
    return False if marked and letter.isupper() and not sides(answer) else None
