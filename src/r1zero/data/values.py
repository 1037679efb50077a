"""Values of a column as the file means them: 32-bit floats in their own digits, bytes as text."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Fix = Callable[[Any], Any]


def typed_rows(schema: Any, rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of an Arrow table with what ``to_pylist`` makes of floats and bytes put right.

    Args:
        schema: of the table (``pyarrow.Schema``).
        rows: its rows as dicts.
    """
    fixes = {field.name: fix for field in schema if (fix := _fix(field.type)) is not None}
    for row in rows:
        yield {name: fixes[name](value) if name in fixes else value for name, value in row.items()}


def _fix(kind: Any) -> Fix | None:
    """What to do with the values of an Arrow type; None where they are as they should be."""
    import pyarrow.types as types

    if types.is_float32(kind) or types.is_float16(kind):
        code = "f" if types.is_float32(kind) else "e"
        return lambda value: None if value is None else shortest(float(value), code)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return text_of_bytes
    if types.is_map(kind):
        return lambda value: None if value is None else dict(value)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _fix(kind.value_type)
        return None if inner is None else lambda value: None if value is None else [inner(item) for item in value]
    if types.is_struct(kind):
        below = {kind.field(i).name: fix for i in range(kind.num_fields) if (fix := _fix(kind.field(i).type))}
        if not below:
            return None
        return lambda value: (
            None if value is None else {name: below[name](v) if name in below else v for name, v in value.items()}
        )
    return None


def shortest(value: float, code: str) -> float:
    """The shortest decimal that is this float of fewer bits: 0.1 for the 32-bit 0.10000000149011612.

    Args:
        value: the float.
        code: its format as ``struct`` names it: "f" for 32 bits, "e" for 16. Nine digits always tell it from others.
    """
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.unpack(code, struct.pack(code, short))[0] == value:
                return short
        except OverflowError:  # rounded up beyond the largest one
            continue
    return value


def text_of_bytes(value: Any) -> Any:
    """Bytes that are UTF-8 as text; others stay bytes, and are refused where they are read."""
    if not isinstance(value, (bytes, bytearray)):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return bytes(value)
