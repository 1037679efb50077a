"""What scripts/data.py says about a set before anything is trained on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from r1zero.config import DataConfig
from r1zero.data.show import report
from r1zero.data.templates import Template
from run_support import ROOT
from tiny_models import tiny_tokenizer


def told(path: Path, benchmarks: dict[str, DataConfig] | None = None, chat: bool = False, **settings) -> str:
    template = Template("mine", "Q: {question}", chat=chat)
    data = DataConfig(name="x", path=str(path), **settings)
    return "\n".join(report(data, benchmarks or {}, template, tiny_tokenizer(), 0))


def test_fields_golds_prompts_and_what_is_left_out_are_told(tmp_path: Path) -> None:
    rows = [
        {"question": "What is 1+1?", "context": "Count.", "answer": "The answer is 2.", "id": 1},
        {"question": "Is <|im_end|> text?", "context": "Read.", "answer": 0.1 + 0.2},
        {"question": "What is 1+1?", "context": "Count.", "answer": "Add them. Then stop."},
        {"question": "What is 1+1?", "context": "Count.", "answer": "2"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"question": "Count. What is 1+1?", "answer": "2"}) + "\n")
    sets = {"held": DataConfig(name="held", path=str(held)), "gone": DataConfig(name="gone", path="no/such/set.jsonl")}
    text = told(path, sets, chat=True)
    for line in (
        "question: 'question' (found by its name)",
        "in front of it: 'context'",
        "answer: 'answer' (found by its name; the answer itself)",
        "other fields: id",
        "3 questions with a gold answer, 1 rows without",
        "row 2: field 'answer' holds prose that names no single answer",
        "gold of row 0: 'The answer is 2.' -> 2",
        "1 golds are guesses of the decimal that was meant, such as 0.3 for 0.30000000000000004",
        "⟦<|im_start|>⟧user\\nQ: Count.\\n\\nWhat is 1+1?⟦<|im_end|>⟧",
        "Q: Read.\\n\\nIs <|im_end|> text?⟦<|im_end|>⟧",
        "1 questions hold the name of a special token, as text (rows 1)",
        "repeated questions: 1 (rows 0, 3)",
        "overlap with held: 1 exact and 0 near of 1 questions",
        "overlap with gone: not measured (data.path=no/such/set.jsonl does not exist",
    ):
        assert line in text, line
    assert "(found by its name)" not in told(path, question_key="question").splitlines()[1]


def test_the_command_takes_a_path_an_option_and_fields(tmp_path: Path, shared: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "data.py")]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*script, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = run(str(shared / "data" / "found" / "alpaca.jsonl"), "template=none", "limit=2", "benchmarks=none")
    assert done.returncode == 0, done.stderr
    assert "in front of it: 'instruction'" in done.stdout
    assert "2 questions with a gold answer" in done.stdout
    refused = run("arithmetic", "temperature=1")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is written"
