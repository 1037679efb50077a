"""What is too costly to hand to a computer algebra system; such an answer is right only as an equal text."""

from __future__ import annotations

import re

from r1zero.reward.rules.structure import tokens

MAX_TEXT = 2000
"""Characters; longer answers are compared as they stand."""
MAX_PARSED = 400
MAX_DEPTH = 12
MAX_NUMBER = 40
MAX_EXPANDED = 30
"""Largest power of a sum that may be multiplied out."""

_OPERATORS = {r"\sum", r"\prod", r"\int", r"\lim", r"\iint", r"\oint", r"\bigcup", r"\bigcap"}
_FORBIDDEN = {r"\input", r"\include", r"\write", r"\def", r"\newcommand", r"\catcode", r"\csname", r"\read", r"\let"}
_SMALL_BINOMIAL = re.compile(r"\\binom(?: ?\{[\da-zA-Z+\-]{1,7}\}| ?[\da-zA-Z]){2}")
_BIG_BINOMIAL = re.compile(r"\\binom ?(?:\{[^{}]*\d{4}|\{[^{}]*\} ?\{[^{}]*\d{4})")
_NUMBER = re.compile(r"\d[\d,. ]*")


def too_costly(text: str) -> bool:
    """Whether canonical text is beyond what may be parsed and simplified symbolically."""
    if len(text) > MAX_PARSED or any(len(match.group()) > MAX_NUMBER for match in _NUMBER.finditer(text)):
        return True
    parts = tokens(text)
    if _OPERATORS.intersection(parts) or _FORBIDDEN.intersection(parts):
        return True
    depth = 0
    exponents: list[int] = []  # depths at which an exponent's group is open
    previous = ""
    for index, token in enumerate(parts):
        if token in ("{", "(", "[", r"\{"):
            depth += 1
            if previous == "^":
                exponents.append(depth)
        elif token in ("}", ")", "]", r"\}"):
            if exponents and exponents[-1] == depth:
                exponents.pop()
            depth -= 1
        if depth > MAX_DEPTH:
            return True
        if token == "^":
            if exponents:
                return True  # an exponent inside an exponent
            after = parts[index + 1] if index + 1 < len(parts) else ""
            if after in ("{", " ") and index + 2 < len(parts):
                after = parts[index + 2]
            if after.isdigit() and (len(after) > 4 or (previous in (")", "]", "}") and int(after) > MAX_EXPANDED)):
                return True
        if exponents and (token == "!" or (token.isdigit() and len(token) > 4) or token in (r"\binom", r"\exp")):
            return True
        if token == "!" and not _small_factorial(previous):
            return True
        if not token.isspace():
            previous = token
    return text.count(r"\binom") > min(3, len(_SMALL_BINOMIAL.findall(text))) or bool(_BIG_BINOMIAL.search(text))


def _small_factorial(operand: str) -> bool:
    return (operand.isdigit() and len(operand) <= 3) or (operand.isalpha() and len(operand) == 1)
