"""`make real` without a model: which questions, which parts, which jobs in which order, and the table by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from r1zero.errors import UserError
from r1zero.lab.real import questions, results
from r1zero.launch.jobs import Jobs

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("Ann", "Bob", "Cyd", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo")
THINGS = ("apples", "books", "coins", "dolls", "eggs", "forks", "games", "hats", "inks", "jars", "keys", "lamps")


def row(at: int = 0, **changes: Any) -> dict[str, Any]:
    problem = f"{NAMES[at]} counts {at + 20} {THINGS[at]} beside {at} {THINGS[-1 - at]} in room {NAMES[-1 - at]}."
    return {
        "problem": problem, "answer": str(2 * at + 20), "formula": f"{at}+{at + 20}={2 * at + 20}", "kind": "Addition",
        "grade": 1,
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("change", "used"),
    [
        ({}, True),
        ({"formula": "(36-16)*1 = 20"}, True),
        ({"formula": "0+20=21"}, False),  # the formula gives another answer
        ({"answer": "20; 3"}, False),
        ({"formula": "x:The number; x-1=19"}, False),
        ({"kind": "GCD"}, False),
        ({"grade": 6}, False),
    ],
)
def test_usable_questions_end_in_their_answer(change: dict[str, Any], used: bool) -> None:
    assert bool(questions.usable([row(**change)], questions.KINDS, questions.GRADES)) == used


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UserError, match="--data has no column 'formula'; columns are problem, answer"):
        questions.usable([{"problem": "a", "answer": "1"}], questions.KINDS, questions.GRADES)


def test_parts_share_no_question_and_the_form_is_worked(tmp_path: Path) -> None:
    """One question stands twice with other numbers of blanks: its second copy is in no other part."""
    rows = [row(at) for at in range(12)]
    rows.append(rows[3] | {"problem": rows[3]["problem"].replace(" ", "  ")})
    for seed in range(6):
        parts = questions.parted(rows, form=3, heldout=4, seed=seed)
        sets = [{" ".join(r["problem"].split()) for r in part} for part in vars(parts).values()]
        assert len(set.union(*sets)) == sum(map(len, sets)), seed
        assert (len(parts.form), len(parts.heldout)) == (3, 4)
        assert len(parts.train) >= 4
    files = questions.write(parts, tmp_path)
    first = json.loads(files["form"].read_text().splitlines()[0])
    assert first["answer"] == f"{parts.form[0]['formula']}, so \\boxed{{{parts.form[0]['answer']}}}"
    questions.write(parts, tmp_path)  # the same again is no fault
    with pytest.raises(UserError, match="holds other questions: give another --out"):
        questions.write(questions.parted(rows, 3, 4, seed=7), tmp_path)
    with pytest.raises(UserError, match="too few"):
        questions.parted(rows, form=3, heldout=13, seed=0)


def responses(right: list[bool], tokens: list[int], samples: int = 2) -> pd.DataFrame:
    """Two samples a question."""
    number = [at // samples for at in range(len(right))]
    return pd.DataFrame({"question": number, "right": right, "tokens": tokens, "finish_reason": "stop",
                         "text": [f"how many? {n}" for n in number], "gold": [["1"]] * len(right),
                         "response": [f"`{t}` tokens" for t in tokens]})  # fmt: skip


def test_the_table_by_hand(tmp_path: Path) -> None:
    """Questions at 0, 1/2, 1/2 with the form; at 1, 1/2, 1 after GRPO: gains 1, 0, 1/2, mean 1/2."""
    made = {
        "before": responses([False] * 6, [40] * 6),
        "form": responses([False, False, True, False, False, True], [10, 20, 12, 30, 20, 14]),
        "grpo": responses([True, True, True, False, True, True], [10, 10, 12, 50, 10, 14]),
        "drgrpo": responses([True, True, True, False, True, True], [10, 10, 12, 20, 10, 14]),
    }
    states: dict[str, list[Path]] = {}
    for name, table in made.items():
        folder = tmp_path / name
        folder.mkdir()
        table.to_parquet(folder / "responses.parquet")
        states[name] = [folder]
    found = results.collect(states)
    rows = {r["state"]: r for r in found["rows"]}
    assert rows["form"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert rows["grpo"]["gain"]["value"] == pytest.approx(0.5)
    assert rows["grpo"]["gain"]["low"] < 0.5 < rows["grpo"]["gain"]["high"]
    assert (rows["form"]["length_right"], rows["form"]["length_wrong"]) == (13.0, 20.0)
    assert (rows["grpo"]["length_wrong"], rows["drgrpo"]["length_wrong"]) == (50.0, 20.0)
    assert found["difference"]["value"] == 0
    read_out = results.excerpts(made["form"], made["grpo"], count=2)
    assert [(r["before_right"], r["after_right"]) for r in read_out] == [(False, True), (True, True)]
    assert "Not finished" not in results.markdown(found, read_out)
    found["unfinished"] = ["drgrpo 1 of 2"]
    text = results.write(found, read_out, tmp_path).read_text()
    assert "Not finished; evaluations so far: drgrpo 1 of 2." in text
    assert "| before | 0.0 [" in text
    assert "|  | - | 40.0 | 0.0 % |" in text, "before, no answer is right"
    assert "- before, wrong: `'10' tokens`" in text
    assert json.loads((tmp_path / "results.json").read_text())["rows"][2]["gain"]["value"] == pytest.approx(0.5)


def test_jobs_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every run waits for the form, every evaluation for its model; states have a folder for each seed."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import real

    arguments = real.parse(["--data", "x.jsonl", "--out", str(tmp_path)])
    files = {name: tmp_path / f"{name}.jsonl" for name in ("form", "train", "heldout")}
    todo, states = real.plan_jobs(arguments, files)
    Jobs(todo, 1)  # every need stands before what has it
    needs = {job.name: job.needs for job in todo}
    assert needs["rl/grpo_0"] == needs["rl/drgrpo_1"] == needs["eval/form"] == ("form",)
    assert needs["eval/drgrpo_1"] == ("rl/drgrpo_1",)
    assert {name: len(folders) for name, folders in states.items()} == {"before": 1, "form": 1, "grpo": 2, "drgrpo": 2}
    assert len({folder for folders in states.values() for folder in folders}) == 6


def test_a_missing_file_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import real

    monkeypatch.setattr("sys.argv", ["real.py", "--data", "nowhere.jsonl"])
    assert real.main() == 1
    assert capsys.readouterr().err == "error: --data nowhere.jsonl is not a file\n"
