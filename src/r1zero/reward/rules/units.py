r"""Units, percent and money behind or before a value: optional on either side, wrong when both name other ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from r1zero.reward.rules.numbers import parse_number

_NAMES = {
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "dm": "dm decimeter decimetre",
    "m": "m meter metre", "km": "km kilometer kilometre", "in": "in inch inche", "ft": "ft foot feet",
    "yd": "yd yard", "mi": "mi mile", "g": "g gram gramme", "kg": "kg kilogram", "mg": "mg milligram",
    "lb": "lb pound", "oz": "oz ounce", "ton": "ton tonne", "s": "s sec second", "min": "min minute",
    "h": "h hr hour", "day": "day", "week": "wk week", "month": "month", "year": "yr year",
    "l": "l L liter litre", "ml": "ml mL milliliter millilitre", "gal": "gal gallon", "cup": "cup", "quart": "quart qt",
    "deg": "deg degree", "rad": "rad radian", "$": "$ dollar buck usd USD", "cent": "cent", "EUR": "EUR euro",
    "GBP": "GBP", "JPY": "JPY yen", "INR": "INR rupee rs Rs", "Hz": "Hz hertz", "N": "N newton", "J": "J joule",
    "W": "W watt", "V": "V volt", "A": "A amp ampere", "K": "K kelvin", "Pa": "Pa pascal", "mol": "mol mole",
    "eV": "eV", "unit": "unit", "%": "% percent percentage", "permille": "permille",
    "C": "C celsiu", "F": "F fahrenheit",
    "nm": "nm nanometer", "um": "um micrometer micron", "ms": "ms millisecond", "dozen": "dozen", "acre": "acre",
}  # fmt: skip
_CANON = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_COMPOUND = {
    "mph": {"mi": 1, "h": -1},
    "kph": {"km": 1, "h": -1},
    "kmh": {"km": 1, "h": -1},
    "rpm": {"revolution": 1, "min": -1},
}
_GENERIC = {"unit"}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_IGNORED = {"of", "the", "a", "an", "in", "total", "only", "exactly", "long", "ago", "old", "away", "each", "more"}
_NOT_UNITS = {
    "and", "or", "maybe", "not", "if", "for", "when", "where", "is", "are", "all", "any", "either", "no", "none",
    "perhaps", "with", "but", "sin", "cos", "tan", "log", "ln", "pi", "sqrt", "mod", "times", "then", "so", "to",
    "both", "neither", "nor", "than", "least", "most", "possibly", "probably", "even", "odd", "positive", "negative",
    "am", "pm", "base", "since", "because", "which", "as", "that", "from", "by", "real", "true", "false", "theta",
}  # fmt: skip
_ORDINAL = {"st", "nd", "rd", "th"}

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
def split_unit(text: str) -> Quantity:
    """Take the unit, percent sign or currency off canonical text; without one the body is the text itself."""
    prefix = _PREFIX.match(text) or re.match(r"-(?=\\\$)", text)
    if prefix:
        sign = "-" if prefix.group() == "-" else ""
        start = prefix.end() + (2 if sign else 0)
        name = "$" if sign else re.sub(r"[\\{}. ]|text|US(?=D|\\?\$)", "", prefix.group(1)) or "$"
        rest = split_unit(text[start:].strip()) if text[start:].strip() else Quantity("")
        if not rest.body:
            return Quantity(text)
        name = {"D": "$", "US$": "$", "Rs": "INR"}.get(name, name)
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
        return Quantity(text[: degree.start()].strip(), ((degree["scale"] or "deg", 1),))
    suffix = _SUFFIX.search(text)
    if suffix and suffix.start() > 0:
        return _with_words(text, text[: suffix.start()].strip(), _plain(suffix["text"]), bare=False)
    bare = _BARE.fullmatch(text)
    if bare and parse_number(bare["body"]) is not None:
        return _with_words(text, bare["body"], bare["words"], bare=True)
    return Quantity(text)


def _plain(text: str) -> str:
    r"""``\frac{\text{m}}{\text{s}}`` and ``\text{m}/\text{s}`` as m/s."""
    text = re.sub(r"\\frac\{(\\text\{[^{}]*\}[^{}]*)\}\{(\\text\{[^{}]*\}[^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace("^{\\circ}", " degrees ")
    return text.replace("\\%", "%").replace("\\$", "$")


def _with_words(text: str, body: str, words: str, bare: bool) -> Quantity:
    read = _read(words, bare, spaced=text[len(body) : len(body) + 1] == " ")
    if read is None or not body:
        return Quantity(text)
    unit, scale = read
    return Quantity(body, unit, scale)


def _read(words: str, bare: bool, spaced: bool, letters: bool = False) -> tuple[Unit, int] | None:
    """Powers of the named units and the scale word; None when the words are no unit."""
    found: dict[str, int] = {}
    scale, sign, pending, last = 1, 1, 1, ""
    count = 0
    for match in _WORD.finditer(words):
        token = match.group()
        low = token.lower()
        if low in ("/", "per"):
            sign = -1
        elif token[0] == "^":
            if not last:
                return None
            found[last] = found[last] * int(token.strip("^{}"))
        elif token.isspace() or token in ("-", ".", "(", ")", "*", "\\cdot"):
            continue
        elif not (token.isalpha() or token in "$%") or low in _NOT_UNITS or (count := count + 1) > 6:
            return None
        elif low in ("square", "sq", "cubic", "cu"):
            pending = 2 if low[0] == "s" else 3
        elif low in ("squared", "cubed") and last:
            found[last] = found[last] * (2 if low[0] == "s" else 3)
        elif low in _SCALES and not found:
            scale *= _SCALES[low]
        elif low in _IGNORED and not (low == "in" and count == 1):
            continue
        elif low in _ORDINAL and count == 1:
            last = ""
        elif low in _COMPOUND:
            found.update(_COMPOUND[low])
        else:
            name = _name(token)
            known = name in _NAMES
            if bare and not known and sign == 1 and not (spaced and len(token) >= 4) and not found:
                return None
            if bare and len(token) == 1 and sign == 1 and not letters:
                return None  # 5 m is five meters or five times m; only text says which
            last = name
            found[name] = found.get(name, 0) + sign * pending
            pending = 1
    return tuple(sorted((name, power) for name, power in found.items() if power)), scale


def _name(word: str) -> str:
    """Canonical name of one unit word: abbreviations as they are, words in lower case without a plural s."""
    if word in _CANON:
        return _CANON[word]
    low = word.lower()
    singular = low[:-1] if len(low) > 3 and low.endswith("s") and not low.endswith("ss") else low
    for form in (low, singular, low[:-2] if low.endswith("es") else low):
        if form in _CANON:
            return _CANON[form]
    return singular


def names_unit(text: str, unit: Unit) -> Quantity | None:
    """The quantity that text means when its last letter is read as the given unit ("2h" beside "2 hours")."""
    bare = _BARE.fullmatch(text)
    if bare is None:
        return None
    read = _read(bare["words"], bare=True, spaced=False, letters=True)
    return Quantity(bare["body"], unit) if read is not None and read[0] == unit else None


def conflict(left: Unit, right: Unit) -> bool:
    """Whether two units exclude each other; a missing or a generic one excludes nothing."""
    if not left or not right or left == right:
        return False
    ours, theirs = dict(left), dict(right)
    if set(ours) <= _GENERIC or set(theirs) <= _GENERIC:
        return False
    shared = {name for name in ours if theirs.get(name) == ours[name]}
    rest = (set(ours) | set(theirs)) - shared
    # "apples" and "red apples" name one thing: the words of one are among the words of the other
    return not (shared and not (rest & set(_NAMES)) and (shared == set(ours) or shared == set(theirs)))
