"""The console: one rich console for every line that a run prints."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH_IN_FILES = 160
"""Columns where the output goes to a file or pipe, which has no width of its own."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_IN_FILES)
