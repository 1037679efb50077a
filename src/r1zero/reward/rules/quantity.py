r"""Quantities: a value with a unit, a percent sign, a currency or a counted thing.

Grammar: a value, then `\text{cm}^2`, `cm`, `m/s`, `\%`, `^\circ`, `apples`; or a currency before it. Units come from a
    closed table (``units``), things that are counted too. A gold answer may name any other thing, and an answer may
    then name the same.
Compares: the units as powers of names, then the bare values.
Pays: a unit left out on either side; other words for one unit; 0.28 for 28%; 5 dozen for 60.
Never pays: two different units; words that are not units ("5 squared", "5 thirds", "7 fails"); 28 for 0.28.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from r1zero.reward.rules.number import parse_number
from r1zero.reward.rules.structure import shape, sides
from r1zero.reward.rules.units import (
    ALONE,
    CANON,
    COMPOUND,
    FILLERS,
    NOT_THINGS,
    ORDINAL,
    SCALE_NAMES,
    SCALES,
    THINGS,
)

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    (r"15\text{ cm}^2", r"15\text{ square centimeters}", True), ("15", r"15\text{ cm}^2", True),
    ("0.28", r"28\%", True),    (r"\$36", "36", True), (r"90^\circ", "90", True), ("5 apples", "5", True),
    (r"2\text{ hours}", r"2\text{ minutes}", False),
    (r"5\text{ squared}", "5", False), (r"5\text{ dozen}", "5", False), ("0.28", "28", False),
)  # fmt: skip

_PREFIX = re.compile(r"(?:US ?)?(\\\$|\\text\{(?:\\?\$|US\\?\$|EUR|GBP|JPY|INR|USD|Rs\.?)\}|\$)")
_SUFFIX = re.compile(
    r"(?P<text>(?:(?:\\cdot|/)?\\text\{[^{}]*\}(?:\^(?:\{-?\d\}|-?\d))?|\\frac\{\\text\{[^{}]*\}(?:\^\{?\d\}?)?\}\{\\text\{[^{}]*\}(?:\^\{?\d\}?)?\})+)$"
)
_DEGREE = re.compile(r"\^(?:\{\\circ\}|\\circ)\s*(?:\\text\{)?(?P<scale>[CFK])?\}?$")
_BARE = re.compile(
    r"(?P<body>.*?[\d})\]]) ?(?P<words>[A-Za-z][A-Za-z .]*(?:\^\{?[23]\}?)?(?:/[A-Za-z]+(?:\^\{?[23]\}?)?)?)$"
)
_ORDINAL_MARK = re.compile(r"(?<=\d)\^\{?\\text\{(?:st|nd|rd|th)\}\}?$")
_WORD = re.compile(r"[A-Za-z$%]+|\^\{?-?\d\}?|/|\d|\\cdot|[-.*() ]|.")


Unit = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Quantity:
    """A value as canonical text and its unit: () without one; ``scale`` multiplies the value (a million)."""

    body: str
    unit: Unit = ()
    scale: int = 1

    @property
    def percent(self) -> bool:
        """Whether the unit is percent."""
        return self.unit == (("%", 1),)


@lru_cache(maxsize=65536)
def split_unit(text: str, trusted: bool = False) -> Quantity:
    """Take the unit, percent sign or currency off canonical text; without one the body is the text itself.

    Args:
        text: Canonical text.
        trusted: It is a gold answer, whose unit may be any thing.
    """
    prefix = _PREFIX.match(text) or re.match(r"-(?=\\\$)", text)
    if prefix:
        sign = "-" if prefix.group() == "-" else ""
        start = prefix.end() + (2 if sign else 0)
        name = "dollar" if sign else CANON.get(re.sub(r"[\\{}. ]|text|US(?=\\?\$)", "", prefix.group(1)), "dollar")
        rest = split_unit(text[start:].strip(), trusted) if text[start:].strip() else Quantity("")
        if not rest.body:
            return Quantity(text)
        if not rest.unit or rest.unit == ((name, 1),):
            return Quantity(sign + rest.body, ((name, 1),), rest.scale)
        return Quantity(text)
    if text.endswith("%"):
        body = text[:-1].removesuffix("\\").strip()
        return Quantity(body, (("%", 1),)) if body else Quantity(text)
    ordinal = _ORDINAL_MARK.search(text)
    if ordinal and ordinal.start() > 0:
        return Quantity(text[: ordinal.start()])
    degree = _DEGREE.search(text)
    if degree and degree.start() > 0:
        return Quantity(text[: degree.start()].strip(), ((SCALE_NAMES.get(degree["scale"], "deg"), 1),))
    suffix = _SUFFIX.search(text)
    if suffix and suffix.start() > 0:
        return _with_words(text, text[: suffix.start()].strip(), _plain(suffix["text"]), False, trusted)
    bare = _BARE.fullmatch(text)
    if bare and parse_number(bare["body"]) is not None:
        return _with_words(text, bare["body"], bare["words"], True, trusted)
    return Quantity(text)


def _plain(text: str) -> str:
    r"""``\frac{\text{m}}{\text{s}}`` and ``\text{m}/\text{s}`` as m/s."""
    text = re.sub(r"\\frac\{(\\text\{[^{}]*\}[^{}]*)\}\{(\\text\{[^{}]*\}[^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace("^{\\circ}", " degrees ")
    return text.replace("\\%", "%").replace("\\$", "$")


def _with_words(text: str, body: str, words: str, bare: bool, trusted: bool) -> Quantity:
    read = _read(words, bare, text[len(body) : len(body) + 1] == " ", trusted=trusted)
    if read is None or not body:
        return Quantity(text)
    unit, scale = read
    return Quantity(body, unit, scale)


def _read(
    words: str, bare: bool, spaced: bool, letters: bool = False, trusted: bool = False
) -> tuple[Unit, int] | None:
    """Powers of the named units and the scale word; None when the words are not units."""
    found: dict[str, int] = {}
    scale, sign, pending, last, count = 1, 1, 1, "", 0
    fillers: list[str] = []
    for match in _WORD.finditer(words):
        token = match.group()
        low = token.lower()
        if low in ("/", "per"):
            sign = -1
        elif token[0] == "^":
            if not last:
                return None
            found[last] *= int(token.strip("^{}"))
        elif token.isspace() or token in ("-", ".", "(", ")", "*", "\\cdot"):
            continue
        elif low in ("squared", "cubed") and last:
            found[last] *= 2 if low[0] == "s" else 3
        elif not (token.isalpha() or token in "$%") or (count := count + 1) > 6:
            return None
        elif low in ("square", "sq", "cubic", "cu"):
            pending = 2 if low[0] == "s" else 3
        elif low in SCALES and not found:
            scale *= SCALES[low]
        elif low in ORDINAL and count == 1:
            last = ""
        elif low in COMPOUND:
            found.update(COMPOUND[low])
        elif low in FILLERS and not (low == "in" and count == 1):
            fillers.append(low)
        else:
            name = _name(token)
            known = name in CANON or name in THINGS
            if low in NOT_THINGS or not (known or trusted or sign == -1):
                return None
            if bare and len(token) == 1 and sign == 1 and not letters:
                return None  # 5 m is five meters or five times m; only text says which
            if (
                bare
                and sign == 1
                and not (
                    token in CANON
                    or (name in CANON and len(token) > 3)
                    or (spaced and len(token) >= 3)
                    or found
                    or letters
                )
            ):
                return None
            last = name
            found[name] = found.get(name, 0) + sign * pending
            pending = 1
    if fillers and not found and scale == 1 and not (trusted or set(fillers) & ALONE):
        return None
    if len(found) > 1 and set(found) & set(SCALE_NAMES.values()):
        found.pop("deg", None)  # degrees Celsius
    return tuple(sorted((name, power) for name, power in found.items() if power)), scale


def _name(word: str) -> str:
    """Canonical name of one unit word: abbreviations as they are, words in lower case without a plural s."""
    if word in CANON:
        return CANON[word]
    low = word.lower()
    singular = low[:-1] if len(low) > 3 and low.endswith("s") and not low.endswith("ss") else low
    for form in (low, singular, low[:-2] if low.endswith("es") else low):
        if form in CANON and len(form) > 1:
            return CANON[form]
    return singular


def names_unit(text: str, unit: Unit) -> Quantity | None:
    """The quantity that text means when its last letter is read as the given unit ("2h" beside "2 hours")."""
    bare = _BARE.fullmatch(text)
    if bare is None:
        return None
    read = _read(bare["words"], bare=True, spaced=False, letters=True)
    return Quantity(bare["body"], unit) if read is not None and read[0] == unit else None


def conflict(left: Unit, right: Unit) -> bool:
    """Whether two units exclude each other; a missing one excludes nothing."""
    if not left or not right or left == right:
        return False
    ours, theirs = dict(left), dict(right)
    scales = set(SCALE_NAMES.values())
    if {"deg": 1} in (ours, theirs) and all(one == {"deg": 1} or set(one) <= scales for one in (ours, theirs)):
        return False
    shared = {name for name in ours if theirs.get(name) == ours[name]}
    rest = (set(ours) | set(theirs)) - shared
    # "apples" and "red apples" name one thing: the words of one are among the words of the other
    return not (shared and not (rest & set(CANON)) and (shared == set(ours) or shared == set(theirs)))


def quantity(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Units, percent and money: optional on either side, two different ones are wrong."""
    ours, theirs = split_unit(answer), split_unit(gold, True)
    if not ours.unit and theirs.unit:
        ours = names_unit(answer, theirs.unit) or ours
    if ours.unit and not theirs.unit:
        theirs = names_unit(gold, ours.unit) or theirs
    chains = [side for side in (sides(answer), sides(gold)) if side]
    if (ours.body, theirs.body) == (answer, gold) or any(parse_number(split_unit(one[0]).body) for one in chains):
        return None  # 1/2 = 50% is an equation
    left, right = parse_number(ours.body, not inner), parse_number(theirs.body, not inner)
    if ours.percent != theirs.percent and (ours.unit == () or theirs.unit == ()) and left and right:
        if left.value * (100 if theirs.percent else 1) == right.value * (100 if ours.percent else 1):
            return True
        # the sign may be left out, but 0.5% is not 0.5
        return left.value == right.value and not (ours.percent and 0 < abs(right.value) < 1)
    if any(_is_listed(side) for side in (ours.body, theirs.body)):
        return None  # the unit belongs to the last member
    if conflict(ours.unit, theirs.unit):
        return False
    if ours.scale != 1 or theirs.scale != 1:
        return left.value * ours.scale == right.value * theirs.scale if left and right else None
    return compare(ours.body, theirs.body, inner)


def _is_listed(body: str) -> bool:
    got = shape(body)
    return (got is None or got.kind == "list" or body[-1:] in ",;") and parse_number(body) is None
