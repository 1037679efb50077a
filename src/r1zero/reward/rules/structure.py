r"""The outer shape of an answer: lists, sets, points and intervals, unions, equations, matrices.

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
_ENVIRONMENT = re.compile(
    r"(?P<front>.*?)(?P<open>\[|\()?\\begin\{(?P<name>[pb]?matrix|smallmatrix|array)\}(?P<body>.*)\\end\{(?P=name)\}(?P<close>\]|\))?",
    re.DOTALL,
)


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


@dataclass(frozen=True)
class Matrix:
    """Rows of canonical entries, and what stands in front of the matrix ("" or a factor)."""

    rows: tuple[tuple[str, ...], ...]
    factor: str


@lru_cache(maxsize=16384)
def matrix(text: str) -> Matrix | None:
    """The matrix that the whole canonical text is, with an optional factor in front; None if it is none."""
    match = _ENVIRONMENT.fullmatch(text)
    if match is None or "\\begin" in match["body"] or "\\begin" in match["front"]:
        return None
    if bool(match["open"]) != bool(match["close"]) or (match["name"] == "array" and not match["open"]):
        return None
    body = match["body"]
    if match["name"] == "array":
        body = re.sub(r"^\{[clr|]*\}", "", body)
    rows = [row for row in body.split("\\\\") if row.strip()]
    cells = tuple(tuple(cell.strip() for cell in row.split("&")) for row in rows)
    if not cells or any(len(row) != len(cells[0]) for row in cells) or any(not cell for row in cells for cell in row):
        return None
    return Matrix(cells, match["front"].strip())


_RELATIONS = {"<": "<", ">": ">", r"\leq": "<=", r"\geq": ">="}


@dataclass(frozen=True)
class Interval:
    """Ends of an interval of the reals as canonical text, and the letter that lies in it, "" if none is named."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool
    letter: str = ""


@lru_cache(maxsize=16384)
def inequality(text: str) -> Interval | None:
    """The interval that an inequality between one letter and values describes; None for any other text."""
    parts = tokens(text)
    found = [token for token in parts if token in _RELATIONS]
    if not 1 <= len(found) <= 2 or "=" in parts or r"\neq" in parts:
        return None
    pieces = split(text, frozenset(_RELATIONS))
    if pieces is None or len(pieces) != len(found) + 1 or not all(pieces):
        return None
    signs = [_RELATIONS[token] for token in found]
    letters = [
        bool(re.fullmatch(r"[a-zA-Z](?:_\{?\w+\}?)?|\\[a-z]+", piece)) and piece not in CONSTANTS for piece in pieces
    ]
    if len(pieces) == 2:
        if letters[0] == letters[1]:
            return None
        letter, value, sign = (pieces[0], pieces[1], signs[0]) if letters[0] else (pieces[1], pieces[0], flip(signs[0]))
        closed = "=" in sign
        if sign[0] == ">":
            return Interval(value, closed, r"\infty", False, letter)
        return Interval(r"-\infty", False, value, closed, letter)
    if not letters[1] or letters[0] or letters[2] or signs[0][0] != signs[1][0]:
        return None
    low, high = (pieces[0], pieces[2]) if signs[0][0] == "<" else (pieces[2], pieces[0])
    first, second = (signs[0], signs[1]) if signs[0][0] == "<" else (signs[1], signs[0])
    return Interval(low, "=" in first, high, "=" in second, pieces[1])


CONSTANTS = frozenset({"e", "i", r"\pi", r"\infty"})


def flip(sign: str) -> str:
    """The relation read from right to left."""
    return sign.replace("<", "\0").replace(">", "<").replace("\0", ">")


def interval(text: str) -> Interval | None:
    """The interval that brackets describe, with or without a letter in front ("x in [1,2]")."""
    letter, text = membership(text)
    got = shape(text)
    if got is None or got.kind != "tuple" or len(got.members) != 2:
        return None
    low, high = got.members
    return Interval(low, got.brackets[0] == "[", high, got.brackets[1] == "]", letter)


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
