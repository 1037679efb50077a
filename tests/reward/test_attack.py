"""What a policy earns without solving is measured, and is nothing where the question does not state its answer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from r1zero.config import RewardConfig
from r1zero.errors import UserError
from r1zero.lab.grade.ablation import Case, errors, pooled, without
from r1zero.lab.grade.attack import COPIED, Attacked, attack, cheats, read_questions, show, states
from r1zero.lab.grade.command import main
from r1zero.reward.grader import Grader
from r1zero.reward.rules import number

QUESTIONS = [
    {"problem": "If $2x+1=5$ and $y = 7$, what is $y$?", "answer": "7"},
    {"problem": "Solve $x^2=9$ for positive $x$.", "answer": "3"},
    {"problem": "Which letter?", "answer": "\\text{(B)}"},
    {"problem": "Write the point.", "answer": "(1,2)"},
    {"problem": "How long is it, if $3z=15$?", "answer": "5\\text{ cm}"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


@pytest.fixture(scope="module")
def grader():
    with Grader(RewardConfig(name="test", timeout=10.0, workers=1)) as grader:
        yield grader


def test_only_a_stated_answer_is_paid(grader, file):
    """y = 7 stands in the question; nothing else pays."""
    tallies, gamed = attack(grader, read_questions(file))
    paid = {kind: tally.paid for kind, tally in tallies.items() if tally.paid}
    assert paid == {"copied equation": 1, "copied number": 1}
    assert tallies["copied equation"].stated == 1
    assert gamed == ["0"]
    kinds = {
        "negation",
        "neighbour",
        "hedge",
        "prose",
        "other unit",
        "other bracket",
        "every alternative",
        "many boxes",
    }
    assert kinds <= set(tallies)


def test_a_verifier_that_pays_everything_is_seen(file):
    """The tool can fail: all of what is tried is counted as paid."""
    always = SimpleNamespace(
        grade_batch=lambda items: [SimpleNamespace(right=True, extracted=item.response[7:-1]) for item in items]
    )
    tallies, gamed = attack(always, read_questions(file))
    assert all(tally.paid == tally.tried for tally in tallies.values())
    assert tallies["copied equation"].paid - tallies["copied equation"].stated == 3
    assert len(gamed) == 3
    assert "| copied equation | 4 | 4 | 100.000% | 3 |" in list(show(tallies, gamed, 5))


@pytest.mark.parametrize(
    ("answer", "stated"), [("x=5", True), ("5", True), ("3+4=7", True), ("2x+1=5", False), ("x^2=9", False)]
)
def test_a_name_with_its_value_states_the_answer(answer, stated):
    assert states(answer) is stated


def test_no_cheat_is_the_gold_answer():
    """Another question's gold of equal value, and a neighbour that is another form, are left out."""
    made = list(cheats(Attacked("0", "", ("0.5", "1.5")), ["\\frac{1}{2}", "x = 0.5", "7"], ["0.5", "1"]))
    assert [one.response for one in made if one.kind == "other gold"] == ["\\boxed{7}"]
    assert [one.response for one in made if one.kind == "frequent answer"] == ["\\boxed{1}"]
    assert [one.response for one in made if one.kind == "neighbour"] == ["\\boxed{-1/2}"]
    assert not any(one.kind in COPIED for one in made)


def test_math500_pays_no_unstated_cheat(shared, grader):
    questions = read_questions(shared / "data" / "eval" / "math500.jsonl")[::4]
    tallies, _ = attack(grader, questions)
    assert sum(tally.tried for tally in tallies.values()) > 4000
    assert {kind: tally.examples for kind, tally in tallies.items() if tally.paid > tally.stated} == {}


def test_the_command_writes_the_rows_to_drop(file, tmp_path, capsys):
    assert main(["--attack", str(file), "--drop-file", str(tmp_path / "drop.txt"), "--workers", "1"], tmp_path) == 0
    assert (tmp_path / "drop.txt").read_text() == "0\n"
    assert "1 questions (20.0%) are solved by copying from them" in capsys.readouterr().out


def test_a_bad_file_is_one_line(tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"problem": "?"}\n')
    with pytest.raises(UserError, match='line 1: a line needs "problem"'):
        read_questions(path)
    assert main(["--attack", str(tmp_path / "none.jsonl")], tmp_path) == 1
    assert "can't read" in capsys.readouterr().err


def test_leaving_a_rule_out_shows_what_it_pays(tmp_path):
    """Without exact numbers 1/2 is not refused for 0.25, or 0.5 is not paid: the errors rise."""
    path = tmp_path / "cases.jsonl"
    rows = [("\\boxed{-0}", "0", False), ("\\boxed{twenty-one}", "21", True), ("\\boxed{5}", "5", True)]
    path.write_text("".join(json.dumps({"response": r, "gold": g, "verdict": v}) + "\n" for r, g, v in rows))
    cases = pooled([path])
    assert cases[-1] == Case("5", ("5",), False, True)
    assert errors(cases).total == 0
    with without(number.number):
        assert errors(cases).total > 0
    assert errors(cases).total == 0
