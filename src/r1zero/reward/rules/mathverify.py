r"""The one place that calls math-verify; imported by worker processes alone.

It sees short extracted answers, never a response: each is put into a box and read by the LaTeX
extractor alone, so that no fragment of text it can't parse is taken for the answer, and gold comes first,
because ``verify`` is not symmetric (trap 47). The process is killed at its deadline, so math-verify's own
alarm is off: it forgets the alarm of its host and fails outside the main thread (traps 45, 46).
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

os.environ.setdefault("SYMPY_GROUND_TYPES", "python")

from math_verify import LatexExtractionConfig, parse, verify

_CONFIG = (LatexExtractionConfig(boxed_match_priority=0),)


@lru_cache(maxsize=4096)
def parse_answer(text: str) -> tuple[Any, ...]:
    """What math-verify reads in one canonical answer; () when nothing. Gold answers are parsed once."""
    parsed = parse(f"\\boxed{{{text}}}", _CONFIG, extraction_mode="first_match", parsing_timeout=None)
    return tuple(parsed)


def equal(answer: str, gold: str) -> bool:
    """Whether math-verify finds an answer equal to a gold answer."""
    gold_parsed = list(parse_answer(gold))
    answer_parsed = list(parse_answer(answer))
    if not gold_parsed or not answer_parsed:
        return False
    return bool(verify(gold_parsed, answer_parsed, timeout_seconds=None))
