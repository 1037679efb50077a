r"""Gold answers of every raw shape, as the tuple of texts of which any one is right.

Pure and light: the data layer calls it once a row, before training.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from collections.abc import Iterable
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from r1zero.reward.extract import boxed, boxes_of_gold

_DOLLAR = re.compile(r"(?<!\\)\$")
_INVISIBLE = re.compile(r"\\(?:text|mbox|mathrm|textbf|quad|qquad)(?![a-zA-Z])|\\[,;:! ]|[\s{}$~.]")
_LISTING = re.compile(r"\[\s*(?:'|\").*(?:'|\")\s*\]", re.DOTALL)


def prepare_gold(value: Any) -> tuple[str, ...]:
    r"""Acceptable answers of one raw gold value.

    Args:
        value: A string (plain, LaTeX, ``... #### 42`` of GSM8K, or a whole solution whose answer stands in its
            last ``\boxed{}``), a number (142.0 becomes "142"), None or NaN, or a list of any of these of
            which each is acceptable (Minerva, OlympiadBench).

    Returns:
        Texts without outer dollars, blanks and boxes, repeats dropped; () where there is no answer.
    """
    if value is None or isinstance(value, bool):
        return ()
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, Integral):
        return (str(int(value)),)
    if isinstance(value, Real | Decimal):
        return _from_decimal(value) if isinstance(value, Decimal) else _from_float(float(value))
    if isinstance(value, bytes | bytearray):
        try:
            return _from_text(value.decode())
        except UnicodeDecodeError:
            return ()
    if isinstance(value, dict):
        return ()
    if isinstance(value, Iterable):
        forms = [form for item in value for form in prepare_gold(item)]
        return tuple(dict.fromkeys(forms))
    return ()


def _from_decimal(value: Decimal) -> tuple[str, ...]:
    """All digits of an exact decimal, without zeros behind them."""
    if not value.is_finite():
        return ()
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") or "0" if "." in text else text,)


def _from_float(number: float) -> tuple[str, ...]:
    if not math.isfinite(number):
        return ()
    if number.is_integer():  # 1e23 is not the 99999999999999991611392 that a float can hold
        return (f"{Decimal(repr(number + 0.0)):f}".removesuffix(".0"),)
    return (repr(shortest(number)),)


def shortest(number: float) -> float:
    """The decimal that a float was meant to be, where rounding shows: 0.3 for 0.30000000000000004.

    A float of 16 or 17 digits that is a 32-bit float, or is equal to one of at most 12 digits to within the
    rounding of a few operations, is taken for that one: a guess, which the data layer names.
    """
    if len(repr(number).lstrip("-0.").replace(".", "")) < 15:
        return number
    for digits in range(1, 13):
        short = float(f"{number:.{digits}g}")
        if abs(short - number) <= 4 * math.ulp(number):
            return short
    for digits in range(1, 9):
        short = float(f"{number:.{digits}g}")
        try:
            if struct.unpack("f", struct.pack("f", short))[0] == number:
                return short
        except OverflowError:
            continue
    return number


def _from_text(value: str) -> tuple[str, ...]:
    text = value.strip()
    if "####" in text:
        text = text[text.rfind("####") + 4 :].strip()
    if "\\boxed" in text or "\\fbox" in text:
        answer = boxes_of_gold(text) or boxed(text).answer
        if answer is None:
            return ()
        text = answer
    if _LISTING.fullmatch(text):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            listed = None
        if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
            return prepare_gold(listed)
    if _DOLLAR.search(text):
        text = _DOLLAR.sub("", text).strip()
        text = text.removesuffix(".")
    text = text.strip()
    if not text or not _INVISIBLE.sub("", text) or text.lower() == "nan":
        return ()
    return (text,)
