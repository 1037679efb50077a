"""A mixture of question sets: exact counts, the same questions in every run, clear errors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from r1zero.config import DataConfig, SourceConfig
from r1zero.data.prompts import load_questions
from r1zero.data.sources import check_source
from r1zero.errors import UserError


@pytest.fixture
def mixture(tmp_path: Path) -> DataConfig:
    for name in ("a", "b"):
        rows = [{"problem": f"{name}{i}?", "answer": i, "year": 1990 + i} for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {
        "a": SourceConfig(path=str(tmp_path / "a.jsonl"), count=5),
        "b": SourceConfig(path=str(tmp_path / "b.jsonl"), count=3, where={"year": [1990, 1991, 1992, 1993]}),
    }
    return DataConfig(name="mixed", sources=sources, rows=8)


def test_as_many_questions_of_each_source_as_asked_for(mixture: DataConfig) -> None:
    questions = load_questions(mixture)
    assert Counter(question.source for question in questions) == {"a": 5, "b": 3}
    assert all(question.row < 4 for question in questions if question.source == "b")
    assert len({question.text for question in questions}) == 8


def test_the_draw_depends_on_its_own_seed_alone(mixture: DataConfig) -> None:
    first = load_questions(mixture, seed=0)
    assert load_questions(mixture, seed=7) == first
    mixture.params = {"seed": 1}
    assert load_questions(mixture, seed=0) != first


def test_without_a_count_a_source_is_taken_whole(mixture: DataConfig) -> None:
    mixture.sources["a"].count, mixture.rows = None, None
    assert Counter(question.source for question in load_questions(mixture)) == {"a": 20, "b": 3}


def test_every_gold_answer_is_checked(mixture: DataConfig) -> None:
    asked: list[int] = []

    def check(golds: Any) -> list[tuple[int, str]]:
        asked.append(len(golds))
        return []

    load_questions(mixture, check=check)
    assert asked == [20, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 9}, "its sources give 8 questions where data.rows=9 are expected: change a count"),
        ({"where": {"year": 1990}}, r"data\.where=.* has no use beside data\.sources: set it for a source"),
        ({"a.count": 21}, r"data\.sources\.a\.count=21 is more than the 20 questions it has"),
        ({"a.path": None}, r"data\.sources\.a\.path is not set"),
        ({"b.where": {"level": [1]}}, r"has no field data\.where\.level; its fields are: problem, answer, year"),
        ({"b.where": {"year": [2023]}}, r"has no row with data\.where\.year in \['2023'\]"),
    ],
)
def test_what_does_not_add_up_is_one_line(mixture: DataConfig, change: dict[str, Any], message: str) -> None:
    ((key, value),) = change.items()
    owner, _, name = key.rpartition(".")
    setattr(mixture.sources[owner] if owner else mixture, name, value)
    with pytest.raises(UserError, match=message):
        load_questions(mixture)


def test_a_missing_file_is_found_before_anything_heavy(mixture: DataConfig) -> None:
    mixture.sources["b"].path = "absent.jsonl"
    with pytest.raises(UserError, match=r"data\.path=absent\.jsonl does not exist"):
        check_source(mixture)
