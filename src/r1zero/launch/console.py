"""The console: one rich console for every line that a run prints."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

WIDTH_IN_FILES = 160
"""Columns where the output goes to a file or pipe, which has no width of its own."""

console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH_IN_FILES)
"""Prints what it is given: names and paths may hold brackets that are not markup."""


def titled(title: str, rest: str, style: str = "bold") -> Text:
    """A line that begins with something that stands out."""
    return Text.assemble((title, style), rest)
