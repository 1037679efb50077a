"""Example plug-in rewards. A plug-in is any function that takes some of these keywords and returns a float.

Keywords: ``question``, ``response``, ``gold`` (tuple of acceptable answers), ``extracted`` (the answer that the
template's extractor found, or None), ``tokens`` (generated tokens, or None), ``meta`` (the question's columns
named in ``data.keep``, by those names), and whatever ``params`` names. It runs in a worker process with the
verifier's memory limit and with its own ``timeout``, else the verifier's; importing its module counts. A function
may have an attribute ``notice``, a function without arguments: what it returns is shown as a warning at the start.
"""

from __future__ import annotations

import re

_TAGS = re.compile(
    r"[^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*</think>\s*<answer>[^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*</answer>\s*"
)


def tag_format(response: str) -> float:
    """1.0 when the response is thinking, ``</think>``, then one ``<answer>`` block and nothing behind it."""
    return float(_TAGS.fullmatch(response) is not None)


def length_penalty(tokens: int | None, free: int, limit: int) -> float:
    """0 up to ``free`` generated tokens, falling linearly to -1 at ``limit`` and beyond.

    Raises:
        ValueError: The number of tokens is not known, or the bounds are out of order.
    """
    if tokens is None:
        raise ValueError("length_penalty needs the number of generated tokens")
    if not 0 <= free < limit:
        raise ValueError(f"length_penalty needs 0 <= free < limit, not {free} and {limit}")
    return -min(max(tokens - free, 0) / (limit - free), 1.0)


def exact_match(extracted: str | None, gold: tuple[str, ...]) -> float:
    """1.0 when the extracted answer is one of the gold answers, letter for letter, blanks at its ends aside."""
    return float(extracted is not None and extracted.strip() in {form.strip() for form in gold})
