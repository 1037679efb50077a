"""The console: one rich console for every line that a run prints."""

from __future__ import annotations

from rich.console import Console

console = Console(highlight=False)
