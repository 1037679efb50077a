r"""Times of day and ratios.

Grammar: `3:15`, `15:04:09`, `3:15 p.m.`; `2:3`, `1:\sqrt2`, `AB:CD=1:2`.
Compares: times by hour, minute and second; ratios term by term, never as a quotient.
Pays: a.m. or p.m. left out, `20:34` for `8:34 p.m.`, missing seconds for `:00`.
Never pays: `1:5` for `3:15`, `4:6` for `2:3`, `3:15 a.m.` for `3:15 p.m.`, a plain number for a time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from r1zero.reward.rules.structure import shape, sides, split
from r1zero.reward.rules.word import raw_text

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    ("3:15", r"3:15\text{ p.m.}", True), ("20:34", r"08:34\text{ P.M.}", True), ("2 : 3", "2:3", True),
    ("4:6", "2:3", False), ("1:00", "12:00", False), ("3:15 am", "3:15 pm", False),
)  # fmt: skip

_CLOCK = re.compile(r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?(?P<half>[ap]m)?")


def clock(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Times and ratios, by their text: 1:00 is not 12:00, 1:5 is not 3:15; a.m. or p.m. may be left out."""
    if ":" not in answer and ":" not in gold:
        return None
    ours, theirs = _time(answer), _time(gold)
    if ours is not None and theirs is not None:
        if ours[3] and theirs[3]:
            return ours == theirs
        return ours[:3] == theirs[:3] or _of_24(ours) == _of_24(theirs)
    if ":" not in gold:
        return None
    if ":" not in answer:
        return None if sides(gold) or shape(gold) is None or r"\{" in gold else False
    left, right = split(answer, {":"}), split(gold, {":"})
    if left is None or right is None or len(left) != len(right) or not all(left) or not all(right):
        return None
    return all(compare(ours, theirs) for ours, theirs in zip(left, right, strict=True))


def _time(value: str) -> tuple[int, int, int, str] | None:
    plain = raw_text(value).lower().replace(".", "").replace(" ", "")
    match = _CLOCK.fullmatch(plain)
    if match is None:
        return None
    return int(match["hour"]), int(match["minute"]), int(match["second"] or 0), match["half"] or ""


def _of_24(time: tuple[int, int, int, str]) -> tuple[int, int, int]:
    """Hour, minute and second of a clock of 24 hours."""
    hour, minute, second, half = time
    return (hour % 12 + 12 * (half == "pm") if half else hour), minute, second
