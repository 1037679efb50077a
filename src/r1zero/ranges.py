"""Ranges of settings: a field of a schema carries its own, beside its default. Imports nothing heavy.

Every number has two ends, so nan, inf and slips of the keyboard are refused before anything is loaded:

    lr: float = ranged(1e-6, at_least=0, at_most=1)
    schedule: str = chosen("constant", "linear", "cosine")

Null passes where a field may be null. Elements of lists, tuples and dicts are checked one by one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError

KEY = "range"
"""Name of a field's range in its metadata."""


@dataclass(frozen=True)
class Range:
    """What a setting may be: numbers between two ends, or one of some values."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    note: str = ""
    """Why, or what helps; it follows the range in the message."""

    def admits(self, value: Any) -> bool:
        """Whether a value lies in the range; nan lies in none."""
        if self.choices:
            return value in self.choices
        if isinstance(value, float) and not math.isfinite(value):
            return False
        low = value >= self.at_least if self.at_least is not None else value > self.above
        high = value <= self.at_most if self.at_most is not None else value < self.below
        return bool(low and high)

    def __str__(self) -> str:
        """As a message and the reference say it."""
        if self.choices:
            names = ["null" if choice is None else str(choice) for choice in self.choices]
            return f"{', '.join(names[:-1])} or {names[-1]}"
        low = f"at least {_end(self.at_least)}" if self.at_least is not None else f"above {_end(self.above)}"
        high = f"at most {_end(self.at_most)}" if self.at_most is not None else f"below {_end(self.below)}"
        return f"{low} and {high}"


def ranged(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    note: str = "",
) -> Any:
    """A dataclass field that holds a number, or numbers, between two ends.

    Raises:
        ValueError: an end is missing or given twice.
    """
    if (at_least is None) == (above is None) or (at_most is None) == (below is None):
        raise ValueError("a range has two ends: at_least or above, at_most or below")
    return _field(default, Range(at_least, above, at_most, below, note=note))


def chosen(default: Any, *others: Any, note: str = "") -> Any:
    """A dataclass field that holds its default or one of ``others``."""
    return _field(default, Range(choices=(default, *others), note=note))


def _field(default: Any, allowed: Range) -> Any:
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={KEY: allowed})
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={KEY: allowed})
    return dataclasses.field(default=default, metadata={KEY: allowed})


def check_ranges(config: DictConfig) -> None:
    """Refuse a setting outside its range, and in places without a schema any number that is not finite.

    So is what OmegaConf lets pass: a list inside of a list of numbers, one value where a setting has two.

    Raises:
        UserError: naming the first such setting, its range and the reason.
    """
    for key, value, allowed in _settings(config, ""):
        for item in _items(value):
            if allowed is None:
                if isinstance(item, float) and not math.isfinite(item):
                    raise UserError(f"{key}={_spelled(item)} must be finite")
            elif not allowed.admits(item):
                what = "is unknown; choose" if allowed.choices else "must be"
                note = f": {allowed.note}" if allowed.note else ""
                raise UserError(f"{key}={_spelled(value)} {what} {allowed}{note}")


def _settings(node: Any, where: str) -> Iterator[tuple[str, Any, Range | None]]:
    """(dotted key, value, range) of every setting that is given; records inside of dicts included."""
    schema = OmegaConf.get_type(node)
    fields, hints = _described(schema) if dataclasses.is_dataclass(schema) else ({}, {})
    for name in node:
        if OmegaConf.is_missing(node, name):
            continue
        key, value = f"{where}{name}", node[name]
        if name in hints:
            _check_elements(key, value, hints[name])
        field = fields.get(str(name))
        allowed = field.metadata.get(KEY) if field is not None else None
        if isinstance(value, DictConfig):
            inner = _settings(value, f"{key}.")
            yield from inner if allowed is None else ((name, value, allowed) for name, value, _ in inner)
        else:
            yield key, value, allowed


@functools.cache
def _described(schema: type[Any]) -> tuple[dict[str, dataclasses.Field[Any]], dict[str, Any]]:
    """Fields of a schema, and their types."""
    return {field.name: field for field in dataclasses.fields(schema)}, typing.get_type_hints(schema)


def _check_elements(key: str, value: Any, hint: Any) -> None:
    """A list, tuple or dict of plain values holds nothing else, and a tuple as many as it has places."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    plain = {str, int, float, type(None)}
    if kind not in (list, tuple, dict) or not OmegaConf.is_config(value):
        return
    if not {leaf for part in inner for leaf in typing.get_args(part) or (part,)} <= plain:
        return
    if kind is tuple and len(value) != len(inner):
        raise UserError(f"{key}={_spelled(value)} must be a list of {len(inner)} values")
    elements = value.values() if kind is dict else value
    if any(OmegaConf.is_config(element) for element in elements):
        raise UserError(f"{key}={_spelled(value)} has a list or a mapping inside; it takes plain values")


def _items(value: Any) -> list[Any]:
    """The values that a range is asked about: null passes, containers are gone through."""
    if value is None:
        return []
    if OmegaConf.is_list(value) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return [item for element in value for item in _items(element)]
    return [value]


def _end(value: float | None) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _spelled(value: Any) -> str:
    """A value as the command line spells it."""
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return str(plain)
