r"""Expressions that a response copies from its question instead of evaluating them.

A verifier by value pays `\binom{8}{4}` for 70, so "compute $\binom{8}{4}$" pays whoever repeats it; a policy under
RL finds that. A copied expression counts as wrong unless a gold answer has the same symbols in another order
(`1+x^2` for `x^2+1`). Copied numbers are not looked at: many questions state a number that is also their answer.
Equations have a rule of their own, and lists, points and intervals are not expressions.
"""

from __future__ import annotations

import re
from collections import Counter
from math import gcd

from r1zero.reward.rules.latex import canonical, key
from r1zero.reward.rules.number import parse_number
from r1zero.reward.rules.structure import shape, tokens, unbracketed
from r1zero.reward.workers.limits import MAX_TEXT

EXAMPLES = (
    (r"Compute $\dbinom{8}{4}$.", r"\binom84", "70", True), ("3+6-2-5=?", "3+6-2-5", "2", True),
    (r"Simplify $\sqrt{180}$.", r"\sqrt{180}", r"6\sqrt{5}", True),
    ("Expand (x+1)(x-2).", "(x+1)(x-2)", "x^2-x-2", True),
    ("Reduce 48/64.", "48/64", r"\frac{3}{4}", True), (r"Reduce $\frac{48}{64}$.", r"\frac{48}{64}", "0.75", True),
    (r"Is $x^2+1$ or $x$ larger?", "x^2+1", "1+x^2", False), ("What is 4 - 1?", "3", "3", False),
    (r"Take $\frac{1}{2}$ of it.", r"\frac12", "0.5", False), ("What is 13+6-2?", "3+6", "9", False),
    ("Is x+1 or 2x larger for x=3?", "2x", "2x", False), ("Compute 2+2.", r"2+2\text{ cm}", "4", True),
    (r"Compute $|3-5|$.", "|5-3|", "2", False), ("Where do (1,2) and x meet?", "(1,2)", "(1, 2)", False),
)  # fmt: skip
"""(question, answer, gold answer, whether it is a copy that is not paid)."""

_NO_SYMBOLS = {"{", "}", r"\cdot", "*", " ", r"\left", r"\right"}
_PLAIN = re.compile(r"\^\{?\\circ\}?|\\%|%|\\\$|\\text\{[^}]*\}")
_PAIR = re.compile(r"(?:\\frac\{(?P<top>\d+)\}\{|(?P<over>\d+)/)(?P<under>\d+)\}?")


def is_copied(answer: str, golds: tuple[str, ...], question: str) -> bool:
    """Whether an answer that is equal in value is an expression of the question that was left as it stood."""
    if len(answer) > MAX_TEXT or not question:
        return False
    ours = _bare(answer)
    if not _is_open(ours) or not _stands_in(key(ours), key(question)):
        return False
    wanted = _symbols(ours)
    return all(_symbols(_bare(gold)) != wanted for gold in golds)


def _bare(text: str) -> str:
    """Canonical text without units, signs of money, degrees and percent, and outer brackets."""
    return unbracketed(_PLAIN.sub("", canonical(text)).strip())


def _is_open(text: str) -> bool:
    """Whether there is anything left to evaluate in canonical text: an operation, or a fraction to reduce."""
    got = shape(text)
    if got is None or got.kind != "single" or "=" in text or re.search(r"[<>]|\\[lg]eq?\b|\\in\b", text):
        return False
    number = parse_number(text)
    if number is None:
        return any(not token.isalnum() and token not in _NO_SYMBOLS and token != "." for token in tokens(text))
    pair = _PAIR.fullmatch(text)
    return pair is not None and gcd(int(pair["top"] or pair["over"]), int(pair["under"])) > 1


def _stands_in(piece: str, whole: str) -> bool:
    """Whether the tokens of ``piece`` occur in ``whole``, and not within a longer number."""
    for match in re.finditer(re.escape(piece), whole):
        before, after = whole[: match.start()].rstrip("\x1f"), whole[match.end() :].lstrip("\x1f")
        if not (before[-1:].isdigit() and piece[0].isdigit()) and not (after[:1].isdigit() and piece[-1].isdigit()):
            return True
    return False


def _symbols(text: str) -> Counter[str]:
    """Tokens of canonical text without what groups them; a slash is a fraction."""
    return Counter(r"\frac" if token == "/" else token for token in tokens(text) if token not in _NO_SYMBOLS)
