"""What each answer type says of itself holds: its examples, and the table in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1zero.config import RewardConfig
from r1zero.lab.grade.types import BEGIN, END, table
from r1zero.reward.grader import Grader
from r1zero.reward.rules import compare, copied, mathverify, sentence

DOCS = Path(__file__).resolve().parents[2] / "docs" / "verifier.md"
EXAMPLES = [(module, *example) for module in compare.TYPES for example in module.EXAMPLES]


@pytest.mark.parametrize(
    ("module", "answer", "gold", "right"),
    [pytest.param(*one, id=f"{one[0].__name__[20:]}-{one[1]}") for one in EXAMPLES],
)
def test_examples_of_a_type_get_the_verdict_they_name(module, answer, gold, right):
    assert compare.decide(answer, gold, cas=mathverify.equal, prose=module is sentence).right is right


@pytest.mark.parametrize("module", compare.TYPES, ids=lambda module: module.__name__[20:])
def test_a_type_has_examples_of_both_verdicts(module):
    assert {right for _, _, right in module.EXAMPLES} == {True, False}


def test_the_table_in_the_documentation_is_that_of_the_docstrings():
    """`python scripts/grade.py --types` prints it."""
    text = DOCS.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) : text.index(END) + len(END)] == table()


@pytest.mark.parametrize(("question", "answer", "gold", "is_copy"), copied.EXAMPLES)
def test_an_expression_of_the_question_is_not_paid_for_its_value(question, answer, gold, is_copy):
    assert copied.is_copied(answer, (gold,), question) is is_copy


def test_the_grader_refuses_a_copy_unless_it_is_told_to_pay():
    response, question = r"\boxed{\sqrt{180}}", r"Simplify $\sqrt{180}$."
    for pays in (False, True):
        with Grader(RewardConfig(name="math_verify", pay_copied=pays)) as grader:
            outcome = grader.grade(response, (r"6\sqrt{5}",), question=question)
            assert (outcome.right, outcome.reward) == (pays, float(pays))
            assert pays or outcome.rule == "copied"
            assert grader.grade(response, (r"6\sqrt{5}",)).right  # the question is not known
            assert grader.grade(r"\boxed{6\sqrt{5}}", (r"6\sqrt{5}",), question=question).right
