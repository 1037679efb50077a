"""Columns that travel with a question to reward functions (``data.keep``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from r1zero.data import fields
from r1zero.errors import UserError


def check_kept(row: Mapping[str, Any], names: Sequence[str], what: str, key: str = "data") -> None:
    """See that a row, best the typical one, has the columns that are kept.

    Raises:
        UserError: Naming the columns it has.
    """
    for name in names:
        if not fields.has(row, name):
            columns = ", ".join(fields.columns_of(row))
            raise UserError(f"{what} has no column {key}.keep={name}; its columns are: {columns}")


def kept(row: Mapping[str, Any], names: Sequence[str], what: str) -> dict[str, Any]:
    """The kept columns of a row by their names as written, as JSON types; None where the row lacks one.

    Raises:
        UserError: For a value that JSON does not know.
    """
    values = {}
    for name in names:
        try:
            values[name] = json.loads(json.dumps(fields.lookup(row, name), ensure_ascii=False).encode())
        except (TypeError, ValueError) as error:
            raise UserError(f"{what}: column '{name}' can't be kept, it is not JSON ({error})") from None
    return values
