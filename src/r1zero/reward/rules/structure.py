r"""The outer shape of an answer: brackets, separators, members, sides of an equation.

Works on canonical text and returns canonical pieces; what the pieces mean is for the rules to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_BRACKETS = 20
_TOKENS = re.compile(r"\\text\{[^{}]*\}|\\[a-zA-Z]+|\\.|[a-zA-Z]+|\d+|\s+|.", re.DOTALL)
_OPENING = {"(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\langle", r"\begin"}
_CLOSING = {")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\rangle", r"\end"}
_TEXT_LIST = re.compile(r"\s*(?:,|;|\band\b|\bor\b)\s*")


@lru_cache(maxsize=65536)
def tokens(text: str) -> tuple[str, ...]:
    r"""Tokens of canonical text; a ``\text{...}`` is one, so is a run of letters or digits."""
    return tuple(_TOKENS.findall(text))


def split(text: str, separators: frozenset[str] | set[str]) -> list[str] | None:
    """Pieces of text between separator tokens outside all brackets; None if the brackets don't match."""
    pieces: list[list[str]] = [[]]
    depth = 0
    for token in tokens(text):
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
            if depth < 0:
                return None
        if depth == 0 and token in separators:
            pieces.append([])
        else:
            pieces[-1].append(token)
    if depth:
        return None
    return ["".join(piece).strip() for piece in pieces]


@dataclass(frozen=True)
class Shape:
    """Members of a collection. ``kind``: list, set, tuple (round or square brackets), or single."""

    kind: str
    members: tuple[str, ...]
    brackets: str = ""


_SEPARATORS = frozenset({",", ";", r"\text{and}", r"\text{or}", r"\text{,}", r"\text{;}", "and", "or"})


@lru_cache(maxsize=65536)
def shape(text: str) -> Shape | None:
    """Shape of canonical text; None if its brackets don't match."""
    text = _open_text_lists(text)
    pieces = split(text, _SEPARATORS)
    if pieces is None:
        return None
    if len(pieces) > 1:
        pieces = [piece for piece in pieces if piece]
        return Shape("list", tuple(pieces)) if len(pieces) > 1 else shape(pieces[0]) if pieces else None
    inner = _inside(text)
    if inner is None:
        return Shape("single", (text,))
    brackets = _brackets(text)
    members = split(inner, frozenset({",", ";"}))
    if members is None:
        return None
    if brackets == r"\{\}":
        pieces = split(inner, _SEPARATORS) or []
        pieces = [piece for piece in pieces if piece]
        if any(token in (":", "|") for piece in pieces for token in tokens(piece)):
            return Shape("single", (text,))
        return Shape("set", tuple(pieces), brackets)
    if len(members) < 2:
        return Shape("single", (text,))
    return Shape("tuple", tuple(members), brackets)


def is_list(text: str) -> bool:
    """Whether canonical text is several members without brackets."""
    got = shape(text)
    return got is not None and got.kind == "list"


def _open_text_lists(text: str) -> str:
    r"""Split ``\text{Alice, Bob and Eve}`` into one ``\text{}`` a name."""

    def opened(match: re.Match[str]) -> str:
        parts = [part.strip() for part in _TEXT_LIST.split(match.group(1))]
        if len(parts) == 1:
            return match.group()
        return ",".join(f"\\text{{{part}}}" if part else "" for part in parts)

    return re.sub(r"\\text\{([^{}]*)\}", opened, text)


def _brackets(text: str) -> str:
    parts = tokens(text)
    opening = {r"\{": r"\{", r"\langle": "("}.get(parts[0], parts[0])
    closing = {r"\}": r"\}", r"\rangle": ")"}.get(parts[-1], parts[-1])
    return opening + closing


def _inside(text: str) -> str | None:
    """Text within the brackets that enclose the whole, None if none do."""
    parts = tokens(text)
    if (
        len(parts) < 2
        or parts[0] not in ("(", "[", r"\{", r"\langle")
        or parts[-1] not in (")", "]", r"\}", r"\rangle")
    ):
        return None
    if (parts[0] == r"\{") != (parts[-1] == r"\}"):
        return None
    depth = 0
    for index, token in enumerate(parts):
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0:
            return "".join(parts[1:-1]).strip() if index == len(parts) - 1 else None
    return None


def unbracketed(text: str) -> str:
    """Text without round brackets that enclose the whole of it."""
    inner = _inside(text)
    for _ in range(MAX_BRACKETS):
        if inner is None or text[0] != "(" or text[-1] != ")" or split(inner, {",", ";"}) != [inner]:
            break
        text = inner
        inner = _inside(text)
    return text


CONSTANTS = frozenset({"e", "i", r"\pi", r"\infty"})


def membership(text: str) -> tuple[str, str]:
    r"""The letter and the set of ``x\in S``; ("", text) for any other text."""
    match = re.match(r"([a-zA-Z]|\\[a-z]+)\\in ?(?![a-z])", text)
    if match and match.group(1) not in CONSTANTS:
        return match.group(1), text[match.end() :]
    return "", text


def sides(text: str) -> list[str] | None:
    """Sides of an equation or chain of equations; None if there is no "=" outside brackets."""
    pieces = split(text, frozenset({"="}))
    if pieces is None or len(pieces) < 2 or not all(pieces):
        return None
    return pieces
