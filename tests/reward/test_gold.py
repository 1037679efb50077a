"""Gold answers of every raw shape, and every gold of the question sets against itself and its neighbour (trap 48)."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from r1zero.config import RewardConfig
from r1zero.lab.grade.variants import mistakes, rewrites
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.rules import compare


@pytest.mark.parametrize(
    ("value", "forms"),
    [
        ("42", ("42",)),
        (" 42\n", ("42",)),
        (42, ("42",)),
        (142.0, ("142",)),
        (-4.0, ("-4",)),
        (0.0, ("0",)),
        (0.5, ("0.5",)),
        (1e22, ("10000000000000000000000",)),
        (1e23, ("100000000000000000000000",)),  # a float holds 99999999999999991611392
        (np.float64(142.0), ("142",)),
        (np.int64(7), ("7",)),
        (np.float32(0.5), ("0.5",)),
        (Fraction(4, 2), ("2",)),
        (Decimal("0.50"), ("0.5",)),
        (float("nan"), ()),
        (float("inf"), ()),
        (np.nan, ()),
        (None, ()),
        (True, ()),
        ("", ()),
        ("  \n", ()),
        ("$$", ()),
        ("\\text{ }", ()),
        ("nan", ()),
        ([], ()),
        ([None, ""], ()),
        (["9.6\n"], ("9.6",)),
        (["9.6", "9.6\n", 9.6], ("9.6",)),
        ((1, 2.0, "3"), ("1", "2", "3")),
        (np.array(["a", "b"]), ("a", "b")),
        ("['$2$', '3']", ("2", "3")),
        ("[1, 2]", ("[1, 2]",)),
        ("025", ("025",)),
        ("1,000", ("1,000",)),
        ("Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72", ("72",)),
        ("#### 1,000", ("1,000",)),
        ("We have $x=3$, so the sum is $\\boxed{\\frac{1}{2}}$.", ("\\frac{1}{2}",)),
        ("First \\boxed{3}, no: \\boxed{4}.", ("4",)),
        ("\\boxed{\\frac{1}{2", ()),
        ("\\boxed{5}", ("5",)),
        ("$\\frac{1}{2}$", ("\\frac{1}{2}",)),
        ("$(-\\infty, 0) \\cup\\{1\\}$.", ("(-\\infty, 0) \\cup\\{1\\}",)),
        ("$69$,$84$", ("69,84",)),
        ("\\$18.90", ("\\$18.90",)),
        ("\\text{(C)}", ("\\text{(C)}",)),
        ({"answer": 5}, ()),
    ],
)
def test_every_raw_shape(value, forms):
    assert prepare_gold(value) == forms


def test_preparing_golds_imports_no_algebra_system():
    """The data layer calls it before anything heavy is there."""
    code = (
        "import sys; import r1zero.reward.gold, r1zero.reward.grader\n"
        "heavy = [m for m in ('sympy', 'math_verify', 'torch', 'mpmath', 'pandas') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(p for p in sys.path if p)})


SETS = {
    "eval/aime24": 30,
    "eval/amc": 83,
    "eval/math500": 500,
    "eval/minerva": 272,
    "eval/olympiadbench": 675,
    "eval/gsm8k_test": 1319,
    "train/gsm8k_train": 7473,
    "train/asdiv_2k": 1788,
    "train/math_12k": 12000,
}
# Questions that list choices whose letter the file lost: their answer is the empty string.
EMPTY = {"train/math_12k": [9841, 9843]}
# The next question's gold that is nevertheless equal: the same value written in another way.
EQUAL_NEIGHBOURS = {
    ("\\frac34", "\\frac{3}{4}"): "the same fraction",
    ("x=5", "5"): "x = 5 is 5",
    ("x = -1", "-1"): "x = -1 is -1",
    ("K=8", "8"): "K = 8 is 8",
    ("120", "120^\\circ"): "the degree sign is optional",
    ("120^\\circ", "120"): "the degree sign is optional",
    ("25", "25\\%"): "the percent sign is optional",
    ("21", "21\\text{ dogs}"): "the unit is optional",
    ("18", "18 \\text{ degrees}"): "the unit is optional",
}


@pytest.fixture(scope="module")
def grader():
    with Grader(RewardConfig(name="test", timeout=10.0, workers=2)) as grader:
        yield grader


def golds_of(shared, name: str) -> list[tuple[str, ...]]:
    with (shared / "data" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [prepare_gold(json.loads(line)["answer"]) for line in lines]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("extractor", ["boxed", "answer_tag"])
def test_every_gold_accepts_itself(shared, grader, name, extractor):
    """In a box and in answer tags, inside a sentence; the exceptions are rows without an answer."""
    golds = golds_of(shared, name)
    assert len(golds) == SETS[name]
    items = [
        GradeItem(f"Let us see. {grader.wrap(forms[0], extractor)}", forms, extractor=extractor)
        for forms in golds
        if forms
    ]
    outcomes = grader.grade_batch(items)
    assert [(item.gold, outcome) for item, outcome in zip(items, outcomes, strict=True) if not outcome.right] == []
    assert [row for row, forms in enumerate(golds) if not forms] == EMPTY.get(name, [])


@pytest.mark.parametrize("name", SETS)
def test_no_gold_accepts_its_neighbour(shared, name):
    """The next question's different gold is wrong, but for pairs that are equal, by the exact rules alone."""
    golds = golds_of(shared, name)
    accepted, open_pairs = [], 0
    for forms, (other, *_) in pairs(golds):
        try:
            if compare.against_any(other, forms).right:
                accepted.append((other, forms[0]))
        except compare.NeedsCas:
            open_pairs += 1
    assert set(accepted) <= set(EQUAL_NEIGHBOURS)
    assert open_pairs <= 0.05 * len(golds)


def pairs(golds: list[tuple[str, ...]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    shifted = [*golds[1:], golds[0]]
    return [(a, b) for a, b in zip(golds, shifted, strict=True) if a and b and not set(a) & set(b)]


@pytest.mark.parametrize("name", ["eval/math500", "eval/minerva", "eval/olympiadbench"])
def test_no_gold_accepts_its_neighbour_with_math_verify(shared, grader, name):
    """The same for the pairs that only math-verify can tell."""
    undecided = []
    for forms, (other, *_) in pairs(golds_of(shared, name)):
        try:
            compare.against_any(other, forms)
        except compare.NeedsCas:
            undecided.append(GradeItem(grader.wrap(other), forms, extractor="boxed"))
    outcomes = grader.grade_batch(undecided)
    assert [(item, o) for item, o in zip(undecided, outcomes, strict=True) if o.right or o.failed] == []


@pytest.mark.parametrize("name", ["eval/math500", "eval/minerva", "eval/olympiadbench", "train/math_12k"])
def test_no_gold_accepts_a_changed_one_and_all_accept_other_spellings(shared, name):
    """A digit, a sign, an exponent, a member is off: refused; a fraction, a list, a mark is written otherwise: paid."""
    chance = random.Random(0)
    paid, refused = [], []
    golds = sorted({forms[0] for forms in golds_of(shared, name) if forms})
    for gold in golds if len(golds) < 1000 else golds[::4]:
        for made, right, wrong in ((mistakes(gold, chance), paid, True), (rewrites(gold), refused, False)):
            for how, answer in made.items():
                with contextlib.suppress(compare.NeedsCas):
                    if compare.decide(answer, gold).right is wrong:
                        right.append((how, answer, gold))
    assert paid == []
    assert refused == []


def test_audit_names_the_rows_that_cannot_be_graded(grader):
    """No gold, a broken box, a gold too long to compare: index and reason; the good ones are not named (trap 48)."""
    golds = [("5",), (), ("\\frac{1}{2",), ("\\text{Evelyn}",), ("x" * 5000,), ("1", "\\boxed{"), ("a, b", "c")]
    found = dict(grader.audit_golds(golds))
    assert sorted(found) == [1, 2, 4, 5]
    assert found[1] == "there is no gold answer"
    assert "does not grade right against itself" in found[2]
