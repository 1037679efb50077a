"""scripts/grade.py as a user runs it: files, standard input, --explain, --audit, mistakes in one line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from r1zero.lab.grade.audit import read_completions, suspects, suspicion
from r1zero.lab.grade.command import extractor_of, main

ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = ROOT / "conf" / "template"
LINES = [
    {"response": "so $\\boxed{1/2}$", "gold": "0.5", "template": "boxed", "id": "a"},
    {"response": " so </think> <answer> 3 </answer>", "gold": 4, "template": "r1"},
    {"response": "so 4", "gold": ["4"], "template": "qwen"},
    {"response": "so \\boxed{4}", "gold": None},
    {"response": None, "gold": "4", "template": "answer_tag"},
    {"response": "so \\boxed{\\min(1,2)}", "gold": "1"},
]


def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "grade.py"), *arguments]
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    return subprocess.run(command, input=text, capture_output=True, text=True, env=env, timeout=120, check=False)


def test_standard_input_comes_back_with_its_outcomes():
    """One line out per line in, in order, with what was there and reward, extracted, status, seconds."""
    done = run("-", text="".join(json.dumps(line) + "\n" for line in LINES) + "\n")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["status"] for row in rows] == ["right", "wrong", "no_answer", "bad_gold", "no_answer", "right"]
    assert [row["reward"] for row in rows] == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert [row["extracted"] for row in rows] == ["1/2", "3", None, "4", None, "\\min(1,2)"]
    assert all({"reward", "extracted", "status", "seconds"} <= set(row) for row in rows)
    assert rows[0]["id"] == "a"
    assert "graded 6: 2 right" in done.stderr


def test_a_file_of_lines(tmp_path, capsys):
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES[:3]), encoding="utf-8")
    assert main([str(file)], TEMPLATES) == 0
    out = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["status"] for line in out] == ["right", "wrong", "no_answer"]


def test_explain_says_what_was_read_and_which_rule_decided():
    done = run("--explain", "\u2026 \\boxed{1/2}", "0.5")
    assert done.returncode == 0, done.stderr
    for words in ("extracted   '1/2'", "gold        '0.5'", "rule        number", "status      right", "parsed    1/2"):
        assert words in done.stdout


def test_explain_a_response_without_an_answer(capsys):
    assert main(["--explain", "so 42", "42", "--template", "r1"], TEMPLATES) == 0
    out = capsys.readouterr().out
    assert "extractor   answer_tag" in out
    assert "extracted   nothing" in out
    assert "status      unformatted" in out


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["-"], '{"response": "x"}\n', 'standard input, line 1: a line needs "response" and "gold"'),
        (["-"], '{"response": "x", "gold": "1"}\nnot json\n', "standard input, line 2: not JSON"),
        (["-"], '{"response": 5, "gold": "1"}\n', 'line 1: "response" must be a string'),
        (
            ["-"],
            '{"response": "x", "gold": "1", "template": "r2"}\n',
            "line 1: template 'r2' is unknown; choose one of",
        ),
        (["missing.jsonl"], "", "error: No such file or directory: missing.jsonl"),
        ([], "", "give a file of JSON lines"),
        (["--audit", "missing"], "", "no completions (*.parquet) under missing"),
        (["-", "--timeout", "0"], "", "reward.timeout=0 must be above 0"),
        (["-", "--limit", "-5"], "", "--limit -5 must be at least 0"),
    ],
)
def test_mistakes_end_in_one_line(arguments, text, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(arguments, TEMPLATES) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"response": "1", "gold": "1"}\n{"response": "\xff", "gold": "1"}\n',
            "answers.jsonl: no UTF-8 text after line",
        ),
        (b"[" * 100_000, "answers.jsonl, line 1: not JSON (nested more than 100 deep)"),
        (
            b'{"response": "1", "gold": ' + b"[" * 300 + b"]" * 300 + b"}",
            "not JSON (nested more than 100 deep)",
        ),
        (b'{"response": "1", "gold": ' + b"9" * 5000 + b"}", "line 1: not JSON (Exceeds the limit"),
    ],
)
def test_files_that_are_no_json_lines_end_in_one_line(content, message, tmp_path, monkeypatch, capsys):
    """C12."""
    monkeypatch.chdir(tmp_path)
    Path("answers.jsonl").write_bytes(content)
    assert main(["answers.jsonl"], TEMPLATES) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--attack", b'{"problem": "1", "answer": ' + b"9" * 5000 + b"}", "line 1: not JSON (Exceeds the limit"),
        ("--attack", b'{"problem": "\xff", "answer": "1"}', "can't read"),
        ("--ablate", b"[" * 100_000, "nested more than 100 deep"),
        ("--ablate", b'{"verdict": true}', "case 1 needs response, gold and verdict"),
        ("--audit", b"PAR1", "can't read"),
    ],
)
def test_other_files_too(option, content, message, tmp_path, capsys):
    """C12: every file that an option names."""
    file = tmp_path / "file"
    file.write_bytes(content)
    assert main([option, str(file)], TEMPLATES) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_byte_order_mark_is_no_mistake(tmp_path, capsys):
    """C12: training data may have one, answers too."""
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps(LINES[0]) + "\n", encoding="utf-8-sig")
    assert main([str(file)], TEMPLATES) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "right"
    done = run("-", text="\ufeff" + json.dumps(LINES[0]) + "\n")
    assert json.loads(done.stdout)["status"] == "right", done.stderr


def test_templates_name_their_extractor():
    assert extractor_of("boxed", TEMPLATES) == "boxed"
    assert extractor_of("answer_tag", TEMPLATES) == "answer_tag"
    assert extractor_of("r1", TEMPLATES) == "answer_tag"
    assert extractor_of("qwen", TEMPLATES) == "boxed"


def row(**changes: object) -> dict[str, object]:
    base = {"question": "q", "completion": "so \\boxed{5}", "gold": ["5"], "extracted": "5", "reward": 1.0}
    return {**base, "status": "right", "rule": "text", **changes}


SUSPECTS = [
    (row(), None),
    (row(extracted="6", status="wrong", rule="number"), None),
    (row(extracted="5", status="wrong", rule="number"), ("false negative", "the verifier of today says right")),
    (row(extracted="6"), ("false positive", "the verifier of today says wrong")),
    (row(extracted=None, status="no_answer", completion="so it is 5."), ("false negative", "no answer was found, and")),
    (row(extracted=None, status="no_answer", completion="so it is 15, or 5.5"), None),
    (
        row(extracted=None, status="truncated", completion="so it is 5 and"),
        ("false negative", "no answer was found, and"),
    ),
    (row(gold=["0.335"], extracted="0.336", status="wrong"), ("false negative", "within 1% of the gold")),
    (row(gold=["12"], extracted="21", status="wrong"), ("false negative", "the same characters in another order")),
    (row(gold=["[2,3]"], extracted="(2,3)", status="wrong"), ("false negative", "equal but for brackets and marks")),
    (row(gold=["2"], extracted="-2", status="wrong"), None),
    (row(gold=["-2"], extracted="(\u22122)", status="wrong"), ("false negative", "the verifier of today says right")),
    (row(gold=["17"], extracted="17 \\text{ maybe}", status="wrong"), ("false negative", "the gold stands inside")),
    (row(extracted="There are 5 of them", rule="sentence"), ("false positive", "the verifier of today says wrong")),
    (row(status="timeout", reward=0.0), ("failure", "the verifier failed (timeout)")),
    (row(gold=[]), ("failure", "no gold answer")),
]


@pytest.mark.parametrize(("completion", "expected"), SUSPECTS)
def test_suspicions(completion, expected):
    found = suspicion(completion)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == expected[0]
        assert found[1].startswith(expected[1])


def test_audit_prints_a_table_to_read(tmp_path):
    """All files of a run, the suspects alone, their number by kind."""
    folder = tmp_path / "completions"
    folder.mkdir()
    pd.DataFrame([case for case, _ in SUSPECTS[:6]]).to_parquet(folder / "step_000001.parquet")
    pd.DataFrame([case for case, _ in SUSPECTS[6:]]).to_parquet(folder / "step_000002.parquet")
    chosen = suspects(read_completions(folder))
    assert len(chosen) == sum(expected is not None for _, expected in SUSPECTS)
    done = run("--audit", str(folder))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "12 of 16 verdicts deserve a look" in done.stdout
    assert "false negative: within 1% of the gold" in done.stdout
    few = run("--audit", str(folder), "--limit", "2")
    assert "10 more; --limit shows them" in few.stdout


def test_audit_of_files_without_the_columns(tmp_path, capsys):
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "other.parquet")
    assert main(["--audit", str(tmp_path)], TEMPLATES) == 1
    assert "lacks the columns completion, gold, extracted, reward, status" in capsys.readouterr().err
