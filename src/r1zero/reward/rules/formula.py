r"""A small reader of LaTeX and plain-text formulas: canonical text in, a tree of tuples out, or None.

It reads what answers are made of (sums, products, powers, roots, the usual functions, finite sums and products,
letters, unknown functions of an argument) and refuses everything else, so that what it does read has one meaning.
Nothing is evaluated here.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from r1zero.reward.rules.formula_tokens import FUNCTIONS, GREEK, INVERSE, MAX_NODES, PLAIN, Cursor, Node, Refused, split

MAX_DEPTH = 20

_APPLIED = set("fghFGHPQ")
_DERIVATIVE = re.compile(r"\{d(?:[a-zA-Z]|\\[a-z]+)\}\{d[a-zA-Z]\}")
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}


class Formula(NamedTuple):
    """A read formula.

    ``whole``: it has factorials, floors and the like, so its letters are whole numbers. ``periodic``: it has
    functions or powers with letters, so it may agree with another at whole numbers alone. ``log``: it has a
    logarithm without a base. ``imaginary``: it has an explicit i. ``stepped``: it has a floor or a ceiling.
    ``applied``: the unknown functions in it with their arguments, as text. ``repeated``: it has a sum or product sign.
    """

    tree: Node
    symbols: frozenset[str]
    whole: bool
    periodic: bool
    log: bool
    imaginary: bool
    stepped: bool
    applied: frozenset[str]
    repeated: bool


@lru_cache(maxsize=65536)
def parse(text: str) -> Formula | None:
    """Read canonical text, all of it; None for anything outside the small language or beyond its limits."""
    if not text or len(text) > 600:
        return None
    reader = _Reader(text)
    try:
        tree = reader.expression()
    except (Refused, RecursionError):
        return None
    if reader.peek() is not None or reader.nodes > MAX_NODES:
        return None
    flags = (reader.whole, reader.periodic, reader.log, reader.imaginary, reader.stepped)
    return Formula(tree, frozenset(reader.symbols), *flags, frozenset(reader.applied), reader.repeats)


class _Reader(Cursor):
    """Recursive descent over tokens; digits are single tokens, because TeX arguments are."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.bars = 0
        self.symbols: set[str] = set()
        self.whole = self.periodic = self.log = self.imaginary = self.stepped = self.repeats = False
        self.applied: set[str] = set()
        self.bound: list[str] = []

    def expression(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Refused
        total = self.term()
        while self.peek() in ("+", "-"):
            sign = self.take()
            right = self.term()
            total = self.node("add", total, right if sign == "+" else self.node("neg", right))
        self.depth -= 1
        return total

    def term(self) -> Node:
        product = self.signed()
        slashed = False
        while True:
            token = self.peek()
            if token == r"\cdot":
                self.take()
                product = self.node("mul", product, self.signed())
            elif token == "/":
                self.take()
                product = self.node("div", product, self.signed())
                slashed = True
            elif token is not None and self.begins(token):
                if slashed:
                    raise Refused  # 1/2x has two readings
                product = self.node("mul", product, self.power())
            else:
                return product

    def signed(self) -> Node:
        token = self.peek()
        if token in ("+", "-"):
            self.take()
            value = self.signed()
            return value if token == "+" else self.node("neg", value)
        return self.power()

    def begins(self, token: str) -> bool:
        """Whether a token may start a factor."""
        if token == "|":
            return self.bars == 0
        return token.isalnum() or token in ("(", "[", "{", ".") or (token[0] == "\\" and self.known(token[1:]))

    @staticmethod
    def known(name: str) -> bool:
        return name in PLAIN or name in GREEK or name in ("frac", "binom", "lfloor", "lceil", "sum", "prod")

    def power(self) -> Node:
        base = self.postfix()
        if self.peek() == "^":
            self.take()
            exponent = self.argument(many_digits=True)
            if exponent == ("sym", "circ"):
                base = self.node("mul", base, ("degree",))
            else:
                if exponent[0] != "num":
                    self.periodic = True
                base = self.node("pow", base, exponent)
            if self.peek() in ("^", "!"):
                raise Refused
        return base

    def postfix(self) -> Node:
        value = self.primary()
        while self.peek() == "!":
            self.take()
            if self.peek() == "!":
                raise Refused  # the double factorial is another function
            value = self.node("fact", value)
            self.whole = True
        if self.peek() in ("'", "_", ","):
            raise Refused
        return value

    def primary(self) -> Node:
        token = self.take()
        if token.isdigit() or token == ".":
            return self.number(token)
        if token in ("(", "[", "{"):
            value = self.expression()
            if token == "{" and self.peek() == r"\over":
                self.take()
                value = self.node("div", value, self.expression())
            self.expect(_CLOSING[token])
            return value
        if token == "|":
            self.bars += 1
            value = self.expression()
            self.expect("|")
            self.bars -= 1
            return self.node("fn", "abs", value)
        if len(token) == 1 and token.isalpha():
            return self.letter(token)
        if token[0] != "\\":
            raise Refused
        return self.command(token[1:])

    def letter(self, token: str) -> Node:
        if self.peek(skip=False) == "_":
            self.take()
            token += "_" + self.raw_group()
        elif token in self.bound:
            return self.node("sym", token)
        elif token == "e":
            return self.node("const", "e")
        elif token == "i":
            self.imaginary = True
            return self.node("const", "i")
        if token not in self.bound:
            self.symbols.add(token)
        if self.peek(skip=False) == "(" and self.applies(token):
            return self.application(token)
        stem, _, index = token.partition("_")
        if index and self.bound and set(self.bound) & set(split(index)):
            return self.node("app", stem, self.sub_formula(index))
        return self.node("sym", token)

    def applies(self, name: str) -> bool:
        """Whether the bracket behind a letter holds its argument: a letter or a number alone, or a usual function."""
        inside = self.tokens[self.position + 1 : self.position + 8]
        inside = inside[: inside.index(")")] if ")" in inside else []
        plain = "".join(inside).strip().lstrip("-")
        single = plain.replace(".", "").isdigit() or (len(plain) == 1 and plain.isalpha()) or plain[1:] in GREEK
        return name[0] in _APPLIED or bool(plain and (single or "," in inside))

    def application(self, name: str) -> Node:
        """An unknown function of its arguments: equal where the name and the arguments are."""
        start = self.position
        self.take()
        arguments = [self.expression()]
        while self.peek() == ",":
            self.take()
            arguments.append(self.expression())
        self.expect(")")
        self.applied.add(name + "".join(self.tokens[start : self.position]).replace(" ", ""))
        return self.node("app", name, *arguments)

    def sub_formula(self, text: str) -> Node:
        """A subscript that counts with a sum's letter."""
        inner = _Reader(text)
        inner.bound = self.bound
        tree = inner.expression()
        if inner.peek() is not None:
            raise Refused
        self.symbols |= inner.symbols
        return tree

    def repeated(self, kind: str) -> Node:
        r"""``\sum_{k=1}^{n}`` or a product, over the term that follows."""
        low = high = None
        name = ""
        while self.peek() in ("_", "^"):
            if self.take() == "^":
                high = self.argument(many_digits=True)
                continue
            self.expect("{")
            name = self.take()
            self.expect("=")
            low = self.expression()
            self.expect("}")
        if low is None or high is None or len(name) != 1 or not name.isalpha():
            raise Refused
        self.whole = self.repeats = True
        self.bound.append(name)
        body = self.term()
        self.bound.pop()
        return self.node(kind, name, low, high, body)

    def argument(self, many_digits: bool = False) -> Node:
        """One TeX argument: a brace group or a single token; an unbraced exponent may have several digits."""
        token = self.peek()
        if token == "{":
            self.take()
            if self.peek() == r"\circ":
                self.take()
                self.expect("}")
                return ("sym", "circ")
            value = self.expression()
            if self.peek() == r"\over":
                self.take()
                value = self.node("div", value, self.expression())
            self.expect("}")
            return value
        if token == r"\circ":
            self.take()
            return ("sym", "circ")
        if token is not None and token.isdigit():
            if many_digits:
                return self.number(self.take())
            return self.node("num", Fraction(int(self.take())))
        if token == "-" and many_digits:
            self.take()
            return self.node("neg", self.argument(many_digits=True))
        if token == "(":
            return self.primary()
        if token is not None and (token.isalpha() or token[0] == "\\"):
            return self.primary()
        raise Refused

    def command(self, name: str) -> Node:
        if name == "frac":
            derivative = _DERIVATIVE.match("".join(self.tokens[self.position : self.position + 12]).replace(" ", ""))
            if derivative:
                for _ in range(2):
                    while self.take() != "}":
                        pass
                self.symbols.add(derivative.group())
                return self.node("sym", derivative.group())
            return self.node("div", self.argument(), self.argument())
        if name == "binom":
            self.whole = True
            return self.node("binom", self.argument(), self.argument())
        if name == "sqrt":
            index: Node | None = None
            if self.peek() == "[":
                self.take()
                index = self.expression()
                self.expect("]")
            return self.node("root", self.argument(), index)
        if name in ("sum", "prod"):
            return self.repeated(name)
        if name == "pi":
            return self.node("const", "pi")
        if name in ("lfloor", "lceil"):
            value = self.expression()
            self.expect(_CLOSING["\\" + name])
            self.stepped = True
            return self.node("fn", "floor" if name == "lfloor" else "ceil", value)
        if name in FUNCTIONS or name == "abs":
            return self.function(name)
        if name in GREEK:
            return self.letter(name)
        raise Refused

    def function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        if name == "log" and self.peek() == "_":
            self.take()
            base = self.argument()
        if self.peek() == "^":
            self.take()
            power = self.argument(many_digits=True)
            if power == ("neg", ("num", Fraction(1))) and name in INVERSE:
                name, power = INVERSE[name], None
        self.periodic = True
        value = self.function_argument()
        if base is not None:
            result = self.node("div", self.node("fn", "ln", value), self.node("fn", "ln", base))
        else:
            self.log = self.log or name == "log"
            result = self.node("fn", name, value)
        return result if power is None else self.node("pow", result, power)

    def function_argument(self) -> Node:
        token = self.peek()
        if token in ("(", "["):
            value = self.primary()
            if self.peek() in ("^", "!"):
                raise Refused  # sin(x)^2 has two readings
            return value
        if token == "-":
            return self.signed()
        value = self.power()
        while (token := self.peek()) is not None and self.begins(token) and token not in ("(", "[", "|"):
            if token[0] == "\\" and (token[1:] in FUNCTIONS):
                break
            value = self.node("mul", value, self.power())
        if token in ("/", r"\cdot"):
            raise Refused  # so has sin x / 2
        return value
