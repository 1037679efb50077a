"""The grading cases drawn from public bug threads: every one is a test with its id (traps 45-48)."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from r1zero.config import RewardConfig
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader

SHARED = Path(os.environ.get("R1ZERO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
FILES = [SHARED / "data" / "grading" / name for name in ("dev.jsonl", "dev2.jsonl")]
TIMEOUT = 15.0
"""Enough on a machine that is busy; what hangs is a failed outcome."""


SIBLINGS = Path(__file__).with_name("siblings.jsonl")
"""Own cases of the kinds that paid wrongly or refused, and of what changed gold answers showed."""


def load(files: list[Path]) -> list[dict[str, Any]]:
    lines = [line for file in files if file.is_file() for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line) for line in lines]


CASES = load(FILES)


@pytest.fixture(scope="module")
def grader():
    with Grader(RewardConfig(name="test", timeout=TIMEOUT, workers=2)) as grader:
        grader.start()
        yield grader


def item(case: dict[str, Any]) -> GradeItem:
    gold = math.nan if case["gold"] == "__FLOAT_NAN__" else case["gold"]
    extractor = "answer_tag" if case["template"] == "r1" else "boxed"
    return GradeItem(case["response"], prepare_gold(gold), extractor=extractor)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_case(case, grader):
    """Right verdict, no crash, no hang."""
    outcome = grader.submit(item(case)).result(timeout=TIMEOUT + 105.0)  # the start of the workers included
    assert outcome.right is case["verdict"], f"{case.get('why', case['kind'])}; {outcome}"
    assert outcome.reward == float(case["verdict"])
    assert not outcome.failed, outcome.detail


def test_siblings_get_their_verdicts(grader):
    cases = load([SIBLINGS])
    outcomes = grader.grade_batch([item(case) for case in cases])
    pairs = zip(cases, outcomes, strict=True)
    wrong = [
        (case["response"], case["gold"], outcome.rule) for case, outcome in pairs if outcome.right != case["verdict"]
    ]
    assert wrong == []
    assert 100 < sum(case["verdict"] for case in cases) < len(cases) - 100


def test_all_kinds_are_there(shared):
    """The cases were really loaded: 268 and 70, and a grader that says always yes or no would fail."""
    assert len(CASES) == 338
    assert len({case["kind"] for case in CASES}) > 29
    assert {case["verdict"] for case in CASES} == {True, False}


def test_no_injected_code_ran(shared, grader, tmp_path, monkeypatch):
    """A payload that touches a file leaves no file, whatever its shape (no eval of model text)."""
    canary = tmp_path / "canary"
    payloads = [
        f"__import__('os').system('touch {canary}')",
        f"open('{canary}','w')",
        f"[x for x in ().__class__.__base__.__subclasses__()]+[__import__('os').system('touch {canary}')]",
        f"\\input{{|touch {canary}}}",
        f"exec(open('{canary}','w').write('x'))",
        f"Integer(1).__class__.__init__.__globals__['__builtins__']['open']('{canary}','w')",
    ]
    golds = [("5",), ("\\frac{1}{2}",), ("\\begin{pmatrix}1\\end{pmatrix}",), ("x+1",)]
    outcomes = grader.grade_batch(
        [GradeItem(f"\\boxed{{{payload}}}", gold) for payload in payloads for gold in golds]
        + [GradeItem(f"</think> <answer>{payload}</answer>", ("5",), extractor="answer_tag") for payload in payloads]
    )
    assert not any(outcome.right for outcome in outcomes)
    assert not canary.exists()
