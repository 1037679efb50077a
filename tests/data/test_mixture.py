"""A mixture of question sets: exact counts, the same questions in every run, clear errors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from r1zero.batch import Prompt
from r1zero.config import DataConfig, SourceConfig
from r1zero.data.loader import PromptLoader
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
        "b": SourceConfig(path=str(tmp_path / "b.jsonl"), count=3, where={"year": "<1994"}),
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
        ({"b.where": {"year": [2023]}}, r"data\.sources\.b: .* has no row with data\.where\.year in \['2023'\]"),
        ({"b.where": {"year": ">2023"}}, r"has no row with data\.where\.year above 2023; it has: 1990"),
        ({"b.where": {"year": []}}, r"data\.sources\.b: data\.where\.year is empty, which no row passes"),
        ({"b.where": {"year": {"until": 3}}}, r"data\.where\.year: until=3 is no bound; known are at_least, above"),
        ({"b.where": {"year": "< x"}}, r"data\.where\.year: below=x is no bound"),
        ({"b.weight": 0.5}, r"data\.sources\.a: either every source has a weight, or each may have a count"),
    ],
)
def test_what_does_not_add_up_is_one_line(mixture: DataConfig, change: dict[str, Any], message: str) -> None:
    ((key, value),) = change.items()
    owner, _, name = key.rpartition(".")
    setattr(mixture.sources[owner] if owner else mixture, name, value)
    with pytest.raises(UserError, match=message):
        load_questions(mixture)
    if name == "where":
        with pytest.raises(UserError, match=message):
            check_source(mixture)  # before anything heavy


def weighted(mixture: DataConfig, a: float, b: float, rows: int | None) -> DataConfig:
    for name, weight in (("a", a), ("b", b)):
        mixture.sources[name].count, mixture.sources[name].weight = None, weight
    mixture.rows = rows
    return mixture


@pytest.mark.parametrize(
    ("a", "rows", "counts"), [(0.75, 8, {"a": 6, "b": 2}), (0.5, 7, {"a": 4, "b": 3}), (0.7, 10, {"a": 7, "b": 3})]
)
def test_weights_are_shares_of_all_rows(mixture: DataConfig, a: float, rows: int, counts: dict[str, int]) -> None:
    """Halves of 7: the first gets the odd one. 0.7 of 10 is 7, whatever 0.7 is in binary."""
    assert Counter(q.source for q in load_questions(weighted(mixture, a, 1 - a, rows))) == counts


@pytest.mark.parametrize(
    ("a", "b", "rows", "message"),
    [
        (0.5, 0.4, 8, r"data\.sources: the weights add up to 0\.9, not to 1 \(0\.5 \+ 0\.4\)"),
        (0.5, 0.5, None, r"data\.rows is not set: the weights of data\.sources are shares of it"),
        (0.2, 0.8, 8, r"data\.sources\.b\.weight=0\.8 \(6 questions\) is more than the 4 questions it has"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    mixture: DataConfig, a: float, b: float, rows: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_questions(weighted(mixture, a, b, rows))
    if rows is None or a + b < 1:
        with pytest.raises(UserError, match=message):
            check_source(mixture)  # before anything heavy


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("<1993", [0, 1, 2]), (" >= 2008 ", [18, 19]), ({"at_least": 1992, "at_most": 1993}, [2, 3]),
        ({"above": 1992, "below": 1994}, [3]), (1995, [5]), ("1995", [5]), (["1995", 1996], [5, 6]),
    ],
)  # fmt: skip
def test_bounds_and_values(mixture: DataConfig, where: Any, rows: list[int]) -> None:
    part = DataConfig(name="a", path=mixture.sources["a"].path, where={"year": where})
    assert [question.row for question in load_questions(part)] == rows


def test_what_is_no_number_lies_within_no_bounds(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}?", "answer": i, "level": level} for i, level in enumerate(["2", 3, "Level 5", None, "5"])]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = DataConfig(name="l", path=str(tmp_path / "l.jsonl"), where={"level": {"at_least": 3}})
    assert [question.row for question in load_questions(part)] == [1, 4]


def test_a_mixture_is_asked_in_one_order_on_one_rank_and_two_and_after_a_resume(mixture: DataConfig) -> None:
    """Shares of two ranks put together are the one rank's steps; a loader that stops after two steps goes on alike."""

    def steps(rank: int = 0, ranks: int = 1, start: dict[str, Any] | None = None) -> list[list[str]]:
        prompts = [Prompt(question, question.text, [1]) for question in load_questions(mixture)]
        loader = PromptLoader(prompts, 4, 5, seed=3, rank=rank, world_size=ranks)
        if start is not None:
            loader.load_state_dict(start)
        found = []
        for batch in loader:
            found.append([prompt.question.text for prompt in batch.prompts])
            if len(found) == 2:
                states.append(loader.state_dict())
        return found

    states: list[dict[str, Any]] = []
    whole = steps()
    assert [a + b for a, b in zip(steps(0, 2), steps(1, 2), strict=True)] == whole
    assert steps(start=states[0]) == whole[2:]
    assert {text[0] for step in whole for text in step} == {"a", "b"}


def test_a_missing_field_of_a_source_is_found_before_anything_heavy(mixture: DataConfig) -> None:
    mixture.sources["b"].where = {"level": [1]}
    with pytest.raises(
        UserError, match=r"^data\.sources\.b: .* has no field data\.where\.level; its fields are: problem"
    ):
        check_source(mixture)


def test_a_missing_file_is_found_before_anything_heavy(mixture: DataConfig) -> None:
    mixture.sources["b"].path = "absent.jsonl"
    with pytest.raises(UserError, match=r"data\.path=absent\.jsonl does not exist"):
        check_source(mixture)
