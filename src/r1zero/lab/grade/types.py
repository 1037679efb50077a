"""The table of answer types in docs/verifier.md, from the docstrings of their modules."""

from __future__ import annotations

import re

from r1zero.reward.rules import compare

BEGIN, END = "<!-- types: begin -->", "<!-- types: end -->"
FIELDS = ("Grammar", "Compares", "Pays", "Never pays")


def described(module: object) -> dict[str, str]:
    """What a module's docstring says: its first sentence under "Type", then ``FIELDS``.

    Raises:
        ValueError: A field is missing.
    """
    text = module.__doc__ or ""
    found = {"Type": text.strip().split("\n")[0].rstrip(".")}
    for name in FIELDS:
        match = re.search(rf"^{name}: (.*?)(?=^\w|\Z)", text, re.DOTALL | re.MULTILINE)
        if match is None:
            raise ValueError(f"{module} does not say '{name}:'")
        found[name] = " ".join(match[1].split()).rstrip(".")
    return found


def table() -> str:
    """The table between its markers, Markdown."""
    rows = [described(module) for module in compare.TYPES]
    lines = [f"| {' | '.join(('Type', *FIELDS))} |", "|" + "---|" * (len(FIELDS) + 1)]
    for row in rows:
        lines.append("| " + " | ".join(row[name].replace("|", "\\|") for name in ("Type", *FIELDS)) + " |")
    return "\n".join((BEGIN, *lines, END))
