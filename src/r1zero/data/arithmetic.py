"""Multi-step arithmetic questions from a seed, e.g. ``3+6-2-5=?``, with a disjoint held-out set.

The split is a property of the question, not of the seed: a hash of its symbols decides whether it is
held out, so no seed, count or order can mix the sets. The same sum in words falls into the same split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from r1zero.errors import UserError

if TYPE_CHECKING:
    from r1zero.batch import Question

SPLITS = ("train", "heldout")
STYLES = ("symbols", "words", "both")
_WORDS = {"+": "add {}", "-": "take away {}", "*": "multiply by {}"}


@dataclass(frozen=True)
class Arithmetic:
    """Settings of the generator.

    ``terms`` numbers are joined by ``operators`` (each of + - *; products bind first). ``terms`` may be
    a pair (fewest, most). Numbers have up to ``digits`` digits and are at least 1. Without ``negative``
    no running result falls below zero. ``style`` words writes the sum as a sentence (left to right, so
    products must not follow + or -), both writes about half of the sums so, always the same
    ones. ``heldout_percent`` of all questions are held out.
    """

    terms: int | tuple[int, int] = 4
    digits: int = 1
    operators: str = "+-"
    negative: bool = False
    style: str = "symbols"
    heldout_percent: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that make no questions. Raises ``UserError``."""
        ends = [self.terms] if isinstance(self.terms, (int, float, str)) else list(self.terms or ())
        if len(ends) not in (1, 2) or not all(whole(end, 2, 1000) for end in ends) or ends != sorted(ends):
            raise UserError(f"arithmetic: terms={self.terms} must be from 2 to 1,000, or a pair (fewest, most)")
        if not whole(self.digits, 1, 1000):
            raise UserError(f"arithmetic: digits={self.digits} must be from 1 to 1,000")
        if not isinstance(self.operators, str) or not self.operators or set(self.operators) - set("+-*"):
            raise UserError(f"arithmetic: operators='{self.operators}' must be a choice of + - *")
        if not isinstance(self.negative, bool):
            raise UserError(f"arithmetic: negative={self.negative} must be true or false")
        if self.style not in STYLES:
            raise UserError(f"arithmetic: style={self.style} is unknown; choose one of {', '.join(STYLES)}")
        if self.style != "symbols" and "*" in self.operators and self.operators != "*":
            raise UserError(f"arithmetic: style={self.style} reads from left to right; use operators '+-' or '*' alone")
        if not whole(self.heldout_percent, 1, 99):
            raise UserError(f"arithmetic: heldout_percent={self.heldout_percent} must lie between 1 and 99")

    @property
    def term_range(self) -> tuple[int, int]:
        """Fewest and most terms of a question."""
        return (self.terms, self.terms) if isinstance(self.terms, int) else (self.terms[0], self.terms[1])


@dataclass(frozen=True)
class Sum:
    """One sum as numbers and the operators between them."""

    numbers: tuple[int, ...]
    operators: tuple[str, ...]

    @property
    def symbols(self) -> str:
        """The sum without the equals sign; what the split hashes."""
        return "".join(f"{op}{n}" for op, n in zip(("", *self.operators), self.numbers, strict=True))

    def steps(self) -> list[tuple[int, str, int, int]]:
        """The working, one operation at a time: (left, operator, right, result); products first, else from the left."""
        numbers, operators, done = list(self.numbers), list(self.operators), []
        while operators:
            at = operators.index("*") if "*" in operators else 0
            left, op, right = numbers[at], operators.pop(at), numbers.pop(at + 1)
            numbers[at] = apply(left, op, right)
            done.append((left, op, right, numbers[at]))
        return done

    @property
    def value(self) -> int:
        """The right answer."""
        return self.steps()[-1][3]

    def text(self, style: str) -> str:
        """The question as the model reads it."""
        if style == "symbols" or (style == "both" and hashed(self.symbols, 4) % 2):
            return f"{self.symbols}=?"
        parts = [_WORDS[op].format(n) for op, n in zip(self.operators, self.numbers[1:], strict=True)]
        return f"Start with {self.numbers[0]}, {', '.join(parts)}. What is the result?"


def apply(left: int, op: str, right: int) -> int:
    """One operation."""
    return left + right if op == "+" else left - right if op == "-" else left * right


def held_out(symbols: str, percent: int) -> bool:
    """Whether the question with these symbols belongs to the held-out set, whatever the seed."""
    return hashed(symbols, 0) % 100 < percent


def hashed(symbols: str, at: int) -> int:
    """A number that depends on the question alone; others ``at`` other bytes have nothing to do with it."""
    return int.from_bytes(hashlib.sha256(symbols.encode()).digest()[at : at + 4], "big")


def draw(split: str, settings: Arithmetic, rng: random.Random) -> Sum:
    """Draw one sum of the split; the same one may come again. Raises ``UserError`` for a split with none."""
    low, high = settings.term_range
    for _ in range(10_000):
        count = rng.randint(low, high)
        numbers = tuple(rng.randint(1, 10**settings.digits - 1) for _ in range(count))
        found = Sum(numbers, tuple(rng.choice(settings.operators) for _ in range(count - 1)))
        if not settings.negative and any(result < 0 for *_, result in found.steps()):
            continue
        if held_out(found.symbols, settings.heldout_percent) == (split == "heldout"):
            return found
    raise UserError(f"arithmetic: no question of split={split} was found with these settings; allow more of them")


def whole(value: Any, low: int, high: int) -> bool:
    """Whether a setting is a whole number between two ends, which belong to it."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def check(split: str, **params: Any) -> None:
    """Raises ``UserError`` for a split or settings that :func:`generate` can't work with."""
    if split not in SPLITS:
        raise UserError(f"arithmetic: split={split} is unknown; choose one of {', '.join(SPLITS)}")
    settings_of(params)


def settings_of(params: Mapping[str, Any]) -> Arithmetic:
    """The settings named in a config. Raises ``UserError`` for one that is unknown or impossible."""
    known = [field.name for field in fields(Arithmetic)]
    if unknown := sorted(set(params) - set(known)):
        raise UserError(f"arithmetic: setting '{unknown[0]}' is unknown; known are {', '.join(known)}")
    return Arithmetic(**params)


def generate(split: str, count: int, seed: int, **params: Any) -> list[Question]:
    """Make ``count`` different questions of ``split`` (train or heldout), in an order fixed by ``seed``.

    ``params`` are the fields of :class:`Arithmetic`; a question's level is its number of terms. Raises ``UserError``
    when a setting is wrong or when there are fewer different questions than asked for.
    """
    from r1zero.batch import Question

    check(split, **params)
    settings = settings_of(params)
    # A str seed is hashed with SHA-512, so neighbouring seeds and the two splits draw unrelated numbers.
    rng = random.Random(f"{split}/{seed}")
    seen: set[Sum] = set()
    questions: list[Question] = []
    in_vain = 0
    while len(questions) < count:
        found = draw(split, settings, rng)
        if found in seen:
            in_vain += 1
            if in_vain > 1000:
                raise UserError(
                    f"arithmetic: {count} questions were asked for, but split={split} has about {len(seen)} different "
                    "ones with these settings; ask for fewer, or raise terms or digits"
                )
            continue
        in_vain = 0
        seen.add(found)
        questions.append(
            Question(
                text=found.text(settings.style),
                gold=(str(found.value),),
                source="arithmetic",
                row=len(questions),
                meta={"level": len(found.numbers)},
            )
        )
    return questions
