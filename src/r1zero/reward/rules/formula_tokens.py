"""Tokens of formulas: LaTeX and plain text cut into commands, letters and signs."""

from __future__ import annotations

import re

LEX = re.compile(r"\\text\{[^{}]*\}|\\[a-zA-Z]+|\\.|[a-zA-Z]+|\s+|.", re.DOTALL)
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
    """Cut a formula into tokens; raises :class:`Refused` for words that are no part of one."""
    tokens: list[str] = []
    for token in LEX.findall(text):
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
