r"""Numbers with a base.

Grammar: `52_8`, `(52)_{8}`, `1011_{\text{two}}`, `52\text{ base }8`.
Compares: the digits and the base, as text.
Pays: another way to name the base; the gold's digits without their base.
Never pays: other digits of equal value in another base; other digits; another base.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from r1zero.reward.rules.structure import sides, unbracketed
from r1zero.reward.rules.word import raw_text

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    (r"1011_{\text{two}}", "1011_2", True), ("(52)_{8}", "52_8", True), ("52", "52_8", True),
    ("42", "52_8", False), ("52_9", "52_8", False), ("42_{10}", "52_8", False),
)  # fmt: skip

_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16, "binary": 2, "ternary": 3, "octal": 8, "decimal": 10, "hex": 16, "hexadecimal": 16,
}  # fmt: skip
_BASED = re.compile(
    r"\(?(?P<digits>-?\d[0-9A-F.,]*|-?[A-F]+\d[0-9A-F]*)\)?"
    r"(?:_(?:\{(?P<braced>\d+)\}|(?P<bare>\d+)|\{?\\text\{(?P<word>[a-z ]+)\}\}?|\{(?P<plain>[a-z]+)\})"
    r"|(?:\\text\{| )?(?:in |\()?base(?:-| )?(?P<said>\w+)\)?\}?)"
)


def base(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Numbers with a base: same digits, same base; the base may be left out; never by value."""
    wanted, given = _based(gold), _based(answer)
    if wanted is None and given is None:
        return None
    if wanted and given:
        return wanted == given
    if wanted:
        if sides(answer):
            return None
        plain = unbracketed(answer)
        return plain.replace(",", "").lstrip("0") == wanted[0] if re.fullmatch(r"[-0-9A-F.,]+", plain) else False
    assert given is not None
    return compare(given[0], gold, inner) if given[1] == 10 else False


def _based(value: str) -> tuple[str, int] | None:
    match = _BASED.fullmatch(value) or _BASED.fullmatch(re.sub(r"\s+", " ", raw_text(value)))
    if match is None:
        return None
    name = (match["word"] or match["plain"] or match["said"] or "").strip()
    number = match["braced"] or match["bare"] or (name if name.isdigit() else "")
    radix = int(number) if number else _BASES.get(name, 0)
    return (match["digits"].replace(",", "").lstrip("0") or "0", radix) if 2 <= radix <= 36 else None
