"""Right and wrong answers made from gold answers: other spellings of one, and typical mistakes."""

from __future__ import annotations

import random
import re
from fractions import Fraction

from r1zero.reward.rules.latex import canonical
from r1zero.reward.rules.number import parse_number
from r1zero.reward.rules.structure import shape


def rewrites(gold: str) -> dict[str, str]:
    """The same answer written in other ways, by the name of the change."""
    out = {
        "stop": gold + ".",
        "dollars": f"${gold}$",
        "spaces": f"\\, {gold} \\;",
        "display": f"\\displaystyle {gold}",
    }
    if "\\frac" in gold:
        out["dfrac"] = gold.replace("\\frac", "\\dfrac")
        out["short fraction"] = re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", gold)
        out["slash"] = re.sub(r"^\\frac\{(-?\d+)\}\{(\d+)\}$", r"\1/\2", gold)
    if re.search(r"\\sqrt\{\d\}", gold):
        out["short root"] = re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", gold)
        out["square in root"] = re.sub(
            r"(?<![\d}^_])(\d)\\sqrt\{(\d+)\}", lambda m: f"\\sqrt{{{int(m[1]) ** 2 * int(m[2])}}}", gold
        )
    if "(" in gold and "\\left" not in gold:
        out["left right"] = gold.replace("(", "\\left(").replace(")", "\\right)")
    if "pmatrix" in gold:
        out["bmatrix"] = gold.replace("pmatrix", "bmatrix")
    if "-" in gold and "\\text" not in gold:
        out["unicode minus"] = gold.replace("-", "\u2212")
    text = canonical(gold)
    number = parse_number(text)
    if number is not None:
        out["named"] = f"x = {gold}"
        if number.value.denominator == 1:
            out["trailing zero"] = f"{number.value}.0"
            if abs(number.value) >= 1000:
                out["thousands"] = f"{number.value.numerator:,}"
            out["fraction over one"] = f"\\frac{{{2 * number.value}}}{{2}}"
        elif set(_primes(number.value.denominator)) <= {2, 5}:
            out["decimal"] = _decimal(number.value)
            out["unreduced"] = f"\\frac{{{3 * number.value.numerator}}}{{{3 * number.value.denominator}}}"
    got = shape(text)
    simple = "=" not in text and "\\ldots" not in text
    if got is not None and got.kind == "list" and "," in text and simple and number is None:
        out["reversed list"] = ", ".join(reversed(got.members))
        out["list in braces"] = "\\{" + ",".join(got.members) + "\\}"
    terms = re.fullmatch(r"(\d+)\s*([-+])\s*(\d*\\sqrt\{\d+\})", gold)
    if terms:
        out["turned sum"] = f"{'-' if terms[2] == '-' else ''}{terms[3]}+{terms[1]}"
    return {name: form for name, form in out.items() if form != gold}


def mistakes(gold: str, chance: random.Random) -> dict[str, str]:
    """Typical wrong answers made from a right one, by the name of the mistake."""
    out: dict[str, str] = {}
    digits = [match.start() for match in re.finditer(r"\d", gold)]
    if digits:
        where = chance.choice(digits)
        other = chance.choice([digit for digit in "123456789" if digit != gold[where]])
        out["digit"] = gold[:where] + other + gold[where + 1 :]
        if re.search(r"(?:^|[^\d.])[1-9]\d*$", gold[: digits[-1] + 1]):
            out["ten times"] = gold[: digits[-1] + 1] + "0" + gold[digits[-1] + 1 :]
    text = canonical(gold)
    number = parse_number(text)
    if number is not None and number.value != 0:
        out["sign"] = gold[1:] if gold.startswith("-") else f"-{gold}"
        out["off by one"] = str(number.value + 1)
        if number.value.denominator > 1:
            out["turned fraction"] = f"\\frac{{{number.value.denominator}}}{{{number.value.numerator}}}"
            out["rounded"] = f"{float(number.value):.3f}"
    got = shape(text)
    if got is not None and len(got.members) > 1 and number is None:
        rest = got.members[:-1]
        if got.kind == "tuple":
            turned = got.brackets[0] + ",".join(reversed(got.members)) + got.brackets[-1]
            if tuple(reversed(got.members)) != got.members:
                out["turned point"] = turned
        else:
            out["dropped member"] = ",".join(rest)
            out["added member"] = text + ",97"
    match = re.search(r"\^\{?(\d)\}?", gold)
    if match:
        out["exponent"] = gold[: match.start(1)] + str((int(match[1]) % 9) + 1) + gold[match.end(1) :]
    return {name: form for name, form in out.items() if not _equal_by_chance(form, gold)}


def _equal_by_chance(form: str, gold: str) -> bool:
    left, right = parse_number(canonical(form)), parse_number(canonical(gold))
    return canonical(form) == canonical(gold) or bool(left and right and left.value == right.value)


def _primes(number: int) -> list[int]:
    found, factor = [], 2
    while number > 1 and factor <= 10**4:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return [*found, number] if number > 1 else found


def _decimal(value: Fraction) -> str:
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return ("-" if value < 0 else "") + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
