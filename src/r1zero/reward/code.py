"""A reward by running code: the unit tests of a question against the code block of a response.

The program runs in a child process of the grader's worker (:mod:`r1zero.reward.sandbox`). It is given the inputs
and never the wanted values; they are compared here, on what came back. So a program that prints results, leaves
with ``sys.exit(0)``, patches ``json`` or the checker, or looks for the tests earns nothing but what it computes.

What it does not protect from is stated in ``sandbox`` and in docs/ideas/rewards.md: without Linux's Landlock and
seccomp the program can read files, start processes and open connections as the user who trains. A warning at the
start says so. Then run it in a container or on a machine that holds nothing else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1zero.reward.sandbox import SHIELDS, Limits, run

_BLOCK = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\r?\n(.*?)```", re.DOTALL | re.IGNORECASE)
_OPEN = {
    "files": "read and write your files",
    "processes": "start processes and signal others",
    "network": "use the network",
}


def unit_tests(
    response: str,
    meta: Mapping[str, Any],
    gold: Sequence[str] = (),
    seconds: float = 4.0,
    memory_mib: int = 512,
    partial: bool = False,
) -> float:
    """1.0 when the last code block of a response passes every test of its question, else 0.0.

    Args:
        response: Its last ```` ```python ```` block is the program; there is no other place for one.
        meta: ``tests`` is a list of ``{"args": [...], "want": value}``, calls of the function named by
            ``function``, or of ``{"stdin": text, "stdout": text}``, whole programs.
        gold: A question with gold answers and no tests is not a programming question and gives 0.0.
        seconds: Wall-clock and CPU seconds of one program; calls share one, every ``stdin`` is one of its own.
        memory_mib: Its address space.
        partial: Give the share of the tests that pass.

    Raises:
        ValueError: The question has no tests, or tests of another shape.
    """
    tests: Any = meta.get("tests")
    if tests is None and gold:
        return 0.0
    calls = _checked(tests, meta.get("function"))
    blocks = _BLOCK.findall(response)
    if not blocks:
        return 0.0
    limits = Limits(seconds, memory_mib)
    if calls:
        passed = _run_calls(blocks[-1], str(meta["function"]), tests, limits)
    else:
        passed = _run_programs(blocks[-1], tests, limits, every=partial)
    return passed / len(tests) if partial else float(passed == len(tests))


def _notice() -> str | None:
    """What a program could reach on this system; None where every shield holds."""
    held = run({"code": "", "function": "f", "calls": []}, Limits(seconds=20.0)).shields
    missing = [_OPEN[shield] for shield in SHIELDS if shield not in held]
    if not missing:
        return None
    return (
        f"the code of responses runs here without Linux's Landlock or seccomp, so it can {', '.join(missing)}; "
        "run it in a container or on a machine that holds nothing else"
    )


unit_tests.notice = _notice  # type: ignore[attr-defined]


def _run_calls(code: str, function: str, tests: Sequence[Mapping[str, Any]], limits: Limits) -> int:
    """Tests passed; the values of a program that ran out of time count as far as they came."""
    lines = run({"code": code, "function": function, "calls": [test["args"] for test in tests]}, limits).output
    passed = 0
    for test, line in zip(tests, lines.split("\n"), strict=False):
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            break
        passed += isinstance(answer, dict) and "value" in answer and same(answer["value"], test["want"])
    return passed


def _run_programs(code: str, tests: Sequence[Mapping[str, Any]], limits: Limits, every: bool) -> int:
    """Tests passed, up to the first that fails unless ``every`` is counted."""
    passed = 0
    for test in tests:
        done = run({"code": code, "stdin": test["stdin"]}, limits)
        right = not done.late and _lines(done.output) == _lines(test["stdout"])
        passed += right
        if not right and not every:
            break
    return passed


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def same(got: Any, want: Any) -> bool:
    """Whether two JSON values are equal; floats to 9 digits, and true is not 1."""
    if isinstance(want, bool) or isinstance(got, bool) or want is None or isinstance(want, str):
        return type(got) is type(want) and got == want
    if isinstance(want, int | float):
        if not isinstance(got, int | float):
            return False
        if isinstance(want, int) and isinstance(got, int):
            return got == want
        return math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(want, list):
        return isinstance(got, list) and len(got) == len(want) and all(map(same, got, want))
    return (
        isinstance(want, dict)
        and isinstance(got, dict)
        and got.keys() == want.keys()
        and all(same(got[key], value) for key, value in want.items())
    )


def _checked(tests: Any, function: Any) -> bool:
    """Whether the tests are calls of a function. Raises ``ValueError`` for tests of another shape."""
    if not isinstance(tests, list) or not tests or not all(isinstance(test, dict) for test in tests):
        raise ValueError("unit_tests needs a list of tests in meta: name its column with data.keep=[tests,function]")
    if all({"args", "want"} <= set(test) and isinstance(test["args"], list) for test in tests):
        if not isinstance(function, str) or not function.isidentifier():
            raise ValueError("tests with args call a function: keep its column, data.keep=[tests,function]")
        return True
    if all(isinstance(test.get("stdin"), str) and isinstance(test.get("stdout"), str) for test in tests):
        return False
    raise ValueError("each of the tests is {args: [...], want: value} or {stdin: text, stdout: text}, all of one kind")
