r"""Expressions that a response copies from its question instead of evaluating them.

A verifier by value pays `\binom{8}{4}` for 70, so "compute $\binom{8}{4}$" pays whoever repeats it; a policy under
RL finds that. A copied expression counts as wrong unless a gold answer has the same symbols in another order
(`1+x^2` for `x^2+1`). A name in front of it does not count (`x=35/(6-1)`). Copied numbers are not looked at, save
repeating decimals: many questions state a number that is also their answer. Nor are lists, points and intervals.
"""

from __future__ import annotations

import re
from collections import Counter
from math import gcd

from r1zero.reward.rules.equation import is_name
from r1zero.reward.rules.latex import canonical, key
from r1zero.reward.rules.number import parse_number
from r1zero.reward.rules.structure import shape, sides, tokens, unbracketed
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
    (r"Find $\cos(-150^\circ)$.", r"\cos(-150^\circ)", r"-\frac{\sqrt3}{2}", True),
    (r"Compute $\frac{\cos 7^\circ}{\sin 83^\circ}$.", r"\frac{\cos 7^\circ}{\sin 83^\circ}", "1", True),
    (r"Evaluate $99\times 99$.", r"99 \cdot 99", "9801", True), (r"Find $2.4 \div 6$.", "2.4/6", "0.4", True),
    (r"Write $0.\overline{54}$ as a fraction.", r"0.\overline{54}", r"\frac{6}{11}", True),
    (r"Solve $x = \frac{35}{6-1}$ for $x$.", r"x=\frac{35}{6-1}", "7", True),
    ("Let $x = 3$. What is 2x-3?", "x=3", "3", False), ("Is $y=2x$ or $y=3x$ steeper?", "y=3x", "3x", False),
)  # fmt: skip
"""(question, answer, gold answer, whether it is a copy that is not paid)."""

_GROUPS = {"{", "}", r"\cdot", "*", " "}
_UNITS = re.compile(r"\^(?:\{\\circ\}|\\circ)|\\%|%|\\\$|\\text\{[^}]*\}")
_PAIR = re.compile(r"(?:\\frac\{(?P<top>[\d.]+)\}\{|(?P<over>[\d.]+)/)(?P<under>[\d.]+)\}?")


def is_copied(answer: str, golds: tuple[str, ...], question: str) -> bool:
    """Whether an answer that is equal in value is an expression of the question that was left as it stood."""
    if len(answer) > MAX_TEXT or not question:
        return False
    ours = _bare(answer)
    if not _is_open(ours) or not _stands_in(key(ours), key(_UNITS.sub("", canonical(question)))):
        return False
    wanted = _symbols(ours)
    return all(_symbols(_bare(gold)) != wanted for gold in golds)


def _bare(text: str) -> str:
    """Canonical text without a name in front, units, signs of money, degrees and percent, and outer brackets."""
    text = canonical(text)
    pieces = sides(text)
    if pieces and len(pieces) == 2 and is_name(pieces[0]) != is_name(pieces[1]):
        text = pieces[is_name(pieces[0])]
    return unbracketed(_UNITS.sub("", text).strip())


def _is_open(text: str) -> bool:
    """Whether there is anything left to evaluate in canonical text: an operation, a period, a fraction to reduce."""
    got = shape(text)
    if got is None or got.kind != "single" or "=" in text or re.search(r"[<>]|\\[lg]eq?\b|\\in\b", text):
        return False
    pair = _PAIR.fullmatch(text)
    if pair is not None:
        both = [pair["top"] or pair["over"], pair["under"]]
        return any("." in one for one in both) or gcd(*map(int, both)) > 1
    if parse_number(text) is not None:
        return r"\overline" in text
    return any(not token.isalnum() and token not in ("{", "}", " ", ".") for token in tokens(text))


def _stands_in(piece: str, whole: str) -> bool:
    """Whether the tokens of ``piece`` occur in ``whole``, and not within a longer number."""
    for match in re.finditer(re.escape(piece), whole):
        before, after = whole[: match.start()].rstrip("\x1f"), whole[match.end() :].lstrip("\x1f")
        if not (before[-1:].isdigit() and piece[0].isdigit()) and not (after[:1].isdigit() and piece[-1].isdigit()):
            return True
    return False


def _symbols(text: str) -> Counter[str]:
    """Tokens of canonical text without what groups them; a slash is a fraction."""
    return Counter(r"\frac" if token == "/" else token for token in tokens(text) if token not in _GROUPS)
