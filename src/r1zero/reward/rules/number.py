r"""Plain numbers, by exact value.

Grammar: integers, decimals, fractions, mixed numbers, scientific and repeating forms, thousands marks of every form,
    numbers in words.
Compares: `fractions.Fraction` values, so a difference in the thirtieth digit counts.
Pays: another spelling of the value; a decimal of at least 7 digits for the fraction that it rounds.
Never pays: a shorter rounding, a thousand read inside brackets, `-0`, a decimal for another decimal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from r1zero.reward.rules.structure import unbracketed

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    ("0.5", r"\frac{1}{2}", True), ("1\\frac45", "1.8", True), ("1{,}000", "1000", True), ("4.5e3", "4500", True),
    ("twenty-one", "21", True), ("0.3333333", "1/3", True), ("0.333", "1/3", False), ("3.14", r"\pi", False),
    ("(1,100)", "1100", False), ("-0", "0", False),
)  # fmt: skip

MAX_DIGITS = 1000
MAX_EXPONENT = 9999

_DIGITS = r"\d+"
_GROUPED = r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)"
_DECIMAL = re.compile(rf"([+-]?)({_GROUPED}|{_DIGITS})?(?:\.(\d*))?")
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\(?:overline|bar|dot)(?:\{(\d+)\}|(\d))")
_POWER = r"10\^(?:\{([+-]?\d+)\}|([+-]?\d+))"
_SCIENTIFIC = re.compile(rf"([+-]?[\d.,]*\d\.?)(?:\\cdot|x) ?{_POWER}|([+-]?){_POWER}|([+-]?[\d.]*\d\.?)[eE]([+-]?\d+)")
_PART = r"(?:\{([+-]?[\d.]+)\}|(\d))"
_FRACTION = re.compile(
    rf"([+-]?)\\frac ?{_PART} ?{_PART}|([+-]?)\{{?([+-]?[\d.]+)\\over ?([+-]?[\d.]+)\}}?|([+-]?)([\d.]+)/([+-]?[\d.]+)"
)
_MIXED = re.compile(rf"([+-]?)(\d+) ?(?:\\frac ?{_PART} ?{_PART})|([+-]?)(\d+) (\d+)/(\d+)")
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_WORDS = {word: value for value, word in enumerate(_UNITS.split())}
_TENS_NAMES = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_TENS_NAMES.split(), 2)}
_POWERS = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"
_PARTS = {word: value for value, word in enumerate(_ORDINALS.split(), 3)}
_PARTS |= {"half": 2, "halve": 2, "quarter": 4}


@dataclass(frozen=True)
class Number:
    """A plain number: its exact value and how it was written.

    ``places`` is the number of decimals of a plain decimal, None for any other form; ``digits`` its
    significant digits.
    """

    value: Fraction
    places: int | None = None
    digits: int = 0


@lru_cache(maxsize=65536)
def parse_number(text: str, thousands: bool = True) -> Number | None:
    """The plain number that the whole canonical text spells, None if it spells something else.

    Args:
        text: Canonical text.
        thousands: Read "1,000" and "1 000" as a thousand; off inside brackets and lists.
    """
    if not text or len(text) > MAX_DIGITS:
        return None
    if not any(char.isdigit() for char in text):
        value = in_words(text.removeprefix("\\text{").removesuffix("}"))
        return None if value is None else Number(value)
    for reader in (_decimal, _fraction, _mixed, _scientific, _repeating):
        number = reader(text)
        if number is not None:
            return number if thousands or reader is not _decimal or not re.search(r"[, ]", text) else None
    return None


def in_words(text: str) -> Fraction | None:
    """The number that English words spell: "twenty-one", "one hundred and five", "two thirds", "a half"."""
    names = re.split(r"[\s-]+", text.strip().lower())
    if len(names) > 12 or not names[0]:
        return None
    part = _PARTS.get(names[-1].removesuffix("s")) if names[-1] != "halfs" else None
    if part:
        over = Fraction(1) if names[:-1] in ([], ["a"], ["one"]) else _whole_in_words(names[:-1])
        return None if over is None or (part > 2 and len(names) == 1) else over / part
    return _whole_in_words(names)


def _whole_in_words(names: list[str]) -> Fraction | None:
    total, group, last = 0, 0, 0
    for index, name in enumerate(names):
        if name in _WORDS and (last >= 100 or index == 0 or (last in _TENS.values() and 0 < _WORDS[name] < 10)):
            group += (last := _WORDS[name])
        elif name in _TENS and (last >= 100 or index == 0):
            group += (last := _TENS[name])
        elif name == "hundred" and 0 < group < 10:
            group *= (last := 100)
        elif name in _POWERS and 0 < group < 1000:
            total, group, last = total + group * _POWERS[name], 0, _POWERS[name]
        elif name != "and" or last < 100 or index == len(names) - 1:
            return None
    return Fraction(total + group)


def _decimal(text: str) -> Number | None:
    match = _DECIMAL.fullmatch(text)
    if not match:
        return None
    sign, whole, fraction = match.groups()
    whole = re.sub(r"[, ]", "", whole or "")
    fraction = fraction or ""
    if not whole and not fraction:
        return None
    value = Fraction(int((whole + fraction) or "0"), 10 ** len(fraction))
    digits = len((whole + fraction).lstrip("0"))
    return Number(-value if sign == "-" else value, len(fraction), digits)


def _repeating(text: str) -> Number | None:
    match = _REPEATING.fullmatch(text)
    if not match:
        return None
    sign, whole, fixed, braced, single = match.groups()
    period = braced or single
    value = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return Number(-value if sign == "-" else value)


def _scientific(text: str) -> Number | None:
    match = _SCIENTIFIC.fullmatch(text)
    if not match:
        return None
    head, power1, power2, sign, power3, power4, head2, power5 = match.groups()
    exponent = int(power1 or power2 or power3 or power4 or power5)
    if abs(exponent) > MAX_EXPONENT:
        return None
    if not (head or head2):
        return Number(Fraction(-1 if sign == "-" else 1) * Fraction(10) ** exponent)
    front = _decimal(head or head2)
    if front is None or front.places is None:
        return None
    places = front.places - exponent
    return Number(front.value * Fraction(10) ** exponent, places if places > 0 else None, front.digits)


def _ratio(over: str, under: str) -> Fraction | None:
    top, bottom = _decimal(over), _decimal(under)
    if top is None or bottom is None or bottom.value == 0:
        return None
    return top.value / bottom.value


def _fraction(text: str) -> Number | None:
    match = _FRACTION.fullmatch(text)
    if not match:
        return None
    sign1, over1, over2, under1, under2, sign2, over3, under3, sign3, over4, under4 = match.groups()
    value = _ratio(over1 or over2 or over3 or over4, under1 or under2 or under3 or under4)
    if value is None:
        return None
    return Number(-value if "-" in (sign1, sign2, sign3) else value)


def _mixed(text: str) -> Number | None:
    match = _MIXED.fullmatch(text)
    if not match:
        return None
    sign1, whole1, over1, over2, under1, under2, sign2, whole2, over3, under3 = match.groups()
    over, under = over1 or over2 or over3, under1 or under2 or under3
    if over[0] in "+-" or under[0] in "+-":
        return None
    part = _ratio(over, under)
    if part is None:
        return None
    value = int(whole1 or whole2) + part
    return Number(-value if "-" in (sign1, sign2) else value)


def same_number(answer: Number, gold: Number, rounded_digits: int = 7) -> bool:
    """Whether two plain numbers are equal, exactly.

    A decimal of at least ``rounded_digits`` significant digits also stands for the fraction that it is
    the rounding or truncation of (1/3 and 0.3333333); two decimals never stand for each other.
    """
    if answer.value == gold.value:
        return True
    if (answer.places is None) == (gold.places is None):
        return False
    decimal, exact = (answer, gold) if gold.places is None else (gold, answer)
    return decimal.digits >= rounded_digits and is_rounding(decimal, exact.value)


def is_rounding(decimal: Number, value: Fraction) -> bool:
    """Whether the plain decimal is value rounded or truncated to as many decimals as it has."""
    assert decimal.places is not None
    scaled = abs(value) * Fraction(10) ** decimal.places
    floor = scaled.numerator // scaled.denominator
    written = abs(decimal.value) * Fraction(10) ** decimal.places
    half_up = floor + (1 if scaled - floor >= Fraction(1, 2) else 0)
    return (value < 0) == (decimal.value < 0) and written in (floor, half_up)


def number(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Two plain numbers, by value; the last word on them."""
    bare, wanted = unbracketed(answer), unbracketed(gold)
    left, right = parse_number(bare, not inner), parse_number(wanted, not inner)
    if left is None or right is None:
        return None
    if left.value == 0 and bare.startswith("-") != wanted.startswith("-"):
        return False
    return same_number(left, right)
