"""The page of responses: what it holds, and what a real browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluate_support import TINY
from r1zero.errors import UserError
from r1zero.lab.report.completions import completions_page
from report_support import seen

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> \\boxed{3}"


def row(step: int, question: str, completion: str, right: bool, **more: object) -> dict[str, object]:
    base = {
        "step": step, "group": 0, "question": question, "completion": completion, "gold": ["6"], "extracted": "6",
        "reward": float(right), "right": right, "status": "right" if right else "wrong", "rule": "text",
        "tokens": 5, "finish_reason": "stop", "advantage": 0.25,
    }  # fmt: skip
    return base | more


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of two steps; the first has token ids."""
    from tokenizers import Tokenizer

    folder = tmp_path / "name" / "time"
    (folder / "completions").mkdir(parents=True)
    (folder / "policy").mkdir()
    shutil.copy(TINY / "tokenizer.json", folder / "policy")
    ids = np.array(Tokenizer.from_file(str(TINY / "tokenizer.json")).encode("So 6<|endoftext|>").ids, np.int32)
    first = [
        row(0, "3+3=?", "So 6", True, ids=ids),
        row(0, "3+3=?", HOSTILE, False, extracted="3", ids=None),
        row(0, "1+1=?", "so", False, extracted=None, finish_reason="length", tokens=50, ids=None),
    ]
    second = [row(1, "3+3=?", "it is 6", True), row(1, "3+3=?", "none", False, extracted=None)]
    for step, rows in enumerate((first, second)):
        pd.DataFrame(rows).to_parquet(folder / "completions" / f"step_{step:06d}.parquet")
    return folder


def test_a_browser_shows_filters_and_hostile_text(run: Path, tmp_path: Path) -> None:
    page = completions_page([run])
    everything = seen(page, "", tmp_path)
    assert everything.count("<article") == 5
    assert "5 responses to 3 questions" in everything
    assert '<mark class="special">&lt;|endoftext|&gt;</mark>' in everything
    assert "<title>Responses of name/time</title>" in everything
    assert "<img" not in everything
    assert seen(page, "verdict=truncated", tmp_path).count("cut by the limit") == 1
    assert seen(page, "verdict=unformatted", tmp_path).count("<article") == 1
    assert seen(page, "verdict=right&text=it+is", tmp_path).count("<article") == 1
    beside = seen(page, "a=0:0&b=0:1", tmp_path)
    assert "4 responses to 1 questions, those asked on both sides" in beside


def test_two_runs_share_a_page_and_steps_are_left_out_evenly(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    for step in range(2, 9):
        shutil.copy(run / "completions" / "step_000001.parquet", other / "completions" / f"step_{step:06d}.parquet")
    page = completions_page([run, other], tmp_path / "page.html", most=18)
    text = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert text is not None
    data = json.loads(text[1])
    assert [r["left_out"] for r in data["runs"]] == [0, 6]
    assert data["runs"][1]["steps"] == [0, 4, 8]


@pytest.mark.parametrize("damage", ["nothing", "cut", "three"])
def test_what_cannot_be_shown_is_one_line(damage: str, run: Path, tmp_path: Path) -> None:
    folders = [run]
    if damage == "nothing":
        folders = [tmp_path]
    elif damage == "cut":
        file = run / "completions" / "step_000001.parquet"
        file.write_bytes(file.read_bytes()[:100])
    else:
        folders = [run] * 3
    with pytest.raises(UserError, match=r"no completions|can't be read|3 runs"):
        completions_page(folders)
