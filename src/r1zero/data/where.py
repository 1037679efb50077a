"""Rows of a question set by the values of their fields (``data.where``). Imports nothing heavy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1zero.config import DataConfig
from r1zero.data import fields
from r1zero.errors import UserError

BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "at_least": lambda value, bound: value >= bound,
    "above": lambda value, bound: value > bound,
    "at_most": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
}
"""Names of bounds, as those of settings have them."""
_SHORT = {">=": "at_least", ">": "above", "<=": "at_most", "<": "below"}
_BOUND = re.compile(r"\s*(>=|>|<=|<)\s*(\S+)\s*")


def check_where(row: Mapping[str, Any], cfg: DataConfig, what: str) -> None:
    """See that the filters make sense, and that a row, best the typical one, has their fields.

    Raises:
        UserError: naming the filter, and the fields of the row.
    """
    for name, wanted in cfg.where.items():
        condition(str(name), wanted)
        if not fields.has(row, str(name)):
            raise UserError(
                f"{what} has no field data.where.{name}; its fields are: {', '.join(fields.columns_of(row))}"
            )


def select(rows: Sequence[Mapping[str, Any]], cfg: DataConfig, what: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Rows, with their index in the source, that pass all filters of ``data.where``.

    A filter is a value, a list of values, a bound as text ("<2023", ">= 3"), or bounds by name ({at_least: 3,
    below: 6}). Values are compared as text, bounds as numbers: what is no number lies within none.

    Raises:
        UserError: No row has the field, or none passes.
    """
    numbered = list(enumerate(rows))
    for key, wanted in cfg.where.items():
        name = str(key)
        passes, said = condition(name, wanted)
        present = Counter(str(fields.lookup(row, name)) for _, row in numbered)
        if set(present) <= {"None"}:
            raise UserError(
                f"{what} has no field data.where.{name}; its fields are: {', '.join(fields.columns_of(rows[0]))}"
            )
        numbered = [(index, row) for index, row in numbered if passes(fields.lookup(row, name))]
        if not numbered:
            shown = ", ".join(value for value, _ in present.most_common(8))
            raise UserError(f"{what} has no row with data.where.{name} {said}; it has: {shown}")
    return numbered


def condition(name: str, wanted: Any) -> tuple[Callable[[Any], bool], str]:
    """Whether a value passes a filter, and the filter in words.

    Raises:
        UserError: the filter is empty, or a bound is none.
    """
    if wanted is None or (not isinstance(wanted, (str, int, float)) and not len(wanted)):
        raise UserError(f"data.where.{name} is empty, which no row passes: name values or bounds, or leave it out")
    if isinstance(wanted, str) and (found := _BOUND.fullmatch(wanted)):
        wanted = {_SHORT[found[1]]: found[2]}
    if isinstance(wanted, Mapping):
        return _within(name, {str(bound): number for bound, number in wanted.items()})
    values = {str(value) for value in ([wanted] if isinstance(wanted, (str, int, float)) else wanted)}
    return lambda value: str(value) in values, f"in {sorted(values)}"


def _within(name: str, wanted: dict[str, Any]) -> tuple[Callable[[Any], bool], str]:
    bounds: list[tuple[Callable[[float, float], bool], float]] = []
    for bound, number in wanted.items():
        end = _number(number)
        if bound not in BOUNDS or math.isnan(end):
            raise UserError(
                f"data.where.{name}: {bound}={number} is no bound; known are {', '.join(BOUNDS)}, of a number"
            )
        bounds.append((BOUNDS[bound], end))

    def passes(value: Any) -> bool:
        number = _number(value)
        return not math.isnan(number) and all(within(number, end) for within, end in bounds)

    return passes, ", ".join(f"{bound} {number}" for bound, number in wanted.items())


def _number(value: Any) -> float:
    """A value as a number; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
