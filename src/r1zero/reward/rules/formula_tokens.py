"""Tokens of formulas: LaTeX and plain text cut into commands, letters and signs."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

MAX_NODES = 250
Node = tuple[Any, ...]

_LEX = re.compile(r"\\text\{[^{}]*\}|\\[a-zA-Z]+|\\.|[a-zA-Z]+|\s+|.", re.DOTALL)
FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
    "sinh", "cosh", "tanh", "coth", "arcsinh", "arccosh", "arctanh", "ln", "log", "lg", "exp",
}  # fmt: skip
INVERSE = {name: "arc" + name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")}
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "arctg": "arctan", "sh": "sinh", "ch": "cosh"}
GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
    "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda",
    "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega", "hbar", "ell",
}  # fmt: skip
PLAIN = FUNCTIONS | {"sqrt", "pi", "theta", "alpha", "beta", "lambda", "phi", "omega", "abs"}


class Refused(Exception):
    """The text is outside the small language of formulas."""


def split(text: str) -> list[str]:
    """Cut a formula into tokens; raises `Refused` for words that are not part of one."""
    tokens: list[str] = []
    for token in _LEX.findall(text):
        if token.startswith("\\text{"):
            word = ALIASES.get(token[6:-1].strip(), token[6:-1].strip())
            if word in PLAIN:
                tokens.append("\\" + word)
            elif len(word) == 1 and word.isalpha():
                tokens.append(word)
            else:
                raise Refused
        elif token[0].isalpha():
            tokens.extend(letters(token))
        elif token.isspace():
            tokens.append(" ")
        else:
            tokens.append(token)
    return tokens


def letters(run: str) -> list[str]:
    """A run of plain letters: a function's name, a name with its argument, or a product of letters."""
    if run in PLAIN:
        return ["\\" + run]
    for name in sorted(PLAIN, key=len, reverse=True):
        if run.startswith(name) and len(run) - len(name) <= 2:
            return ["\\" + name, *run[len(name) :]]
        if run.endswith(name) and len(run) - len(name) <= 2 and len(name) > 2:
            return [*run[: -len(name)], "\\" + name]
    if len(run) > 3:
        raise Refused
    return list(run)


class Cursor:
    """A place in the tokens of a formula, and the numbers there; digits are single tokens, as TeX's are."""

    def __init__(self, text: str) -> None:
        self.position = self.nodes = 0
        try:
            self.tokens = split(text)
        except Refused:
            self.tokens = ["\\refused"]

    def peek(self, skip: bool = True) -> str | None:
        """The token that comes next, None at the end; blanks are skipped or not."""
        while skip and self.position < len(self.tokens) and self.tokens[self.position] == " ":
            self.position += 1
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def take(self) -> str:
        """The next token, which is used up; raises `Refused` at the end."""
        token = self.peek()
        if token is None:
            raise Refused
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        """Use up this token; raises `Refused` for any other."""
        if self.take() != token:
            raise Refused

    def node(self, *parts: Any) -> Node:
        """A node of the tree; raises `Refused` beyond ``MAX_NODES``."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise Refused
        return parts

    def number(self, first: str) -> Node:
        """The number that begins with a token, a mixed one with its fraction."""
        digits = first
        while (token := self.peek(skip=False)) is not None and (
            token.isdigit() or (token == "." and "." not in digits)
        ):
            digits += self.take()
        if digits == "." or not digits.isascii():
            raise Refused
        if self.peek(skip=False) == " ":
            after = self.tokens[self.position + 1] if self.position + 1 < len(self.tokens) else ""
            if after.isdigit():
                raise Refused
        value = Fraction(digits if digits[-1] != "." else digits[:-1])
        if "." not in digits and self.peek() == r"\frac":
            part = self.proper_part()
            if part is not None:
                value += part
        return self.node("num", value)

    def proper_part(self) -> Fraction | None:
        """The fraction of a mixed number, when both of its parts are plain digits."""
        start = self.position
        self.take()
        parts: list[str] = []
        for _ in range(2):
            token = self.peek()
            if token is not None and token.isdigit():
                parts.append(self.take())
            elif token == "{":
                self.take()
                digits = ""
                while (token := self.peek()) is not None and token.isdigit():
                    digits += self.take()
                if not digits or self.peek() != "}":
                    break
                self.take()
                parts.append(digits)
            else:
                break
        if len(parts) < 2:
            self.position = start
            return None
        if int(parts[1]) == 0:
            raise Refused
        return Fraction(int(parts[0]), int(parts[1]))

    def raw_group(self) -> str:
        """A subscript, as text."""
        token = self.take()
        if token != "{":
            return token
        out = ""
        while (token := self.take()) != "}":
            if token == "{":
                raise Refused
            out += token
        return out
