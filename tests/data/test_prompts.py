"""Questions from configured sets, prompts of a length the model takes. Traps 27, 48."""

from __future__ import annotations

import datetime
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1zero.batch import Question
from r1zero.config import BadGold, DataConfig, Gold
from r1zero.data.prompts import build_prompts, load_questions
from r1zero.data.sources import check_source
from r1zero.data.templates import Template
from r1zero.errors import UserError
from tiny_models import tiny_tokenizer

BARE = Template("bare", "{question}")
ROWS = [{"problem": f"What is {i}+1?", "answer": i + 1, "level": i % 3, "tags": ["a"]} for i in range(9)]


@pytest.fixture
def make(tmp_path):
    def write(content=ROWS, **keywords) -> DataConfig:
        path = tmp_path / "set.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in content))
        return DataConfig(name="made", path=str(path), **keywords)

    return write


def test_a_question_keeps_its_text_gold_place_and_labels(make):
    questions = load_questions(make())
    assert questions[4] == Question("What is 4+1?", ("5",), "made", 4, {"level": 1})
    assert len(questions) == 9


def test_gold_answers_are_normalised_once_at_load(make):
    """Trap 48: floats, lists of accepted answers, dollars, leading zeros."""
    rows = [{"problem": "q", "answer": a} for a in (142.0, ["9.6\n", "$10$"], "$\\frac12$", "025", "#### 1,000")]
    golds = [question.gold for question in load_questions(make(rows))]
    assert golds[0] == ("142",)
    assert golds[1] == ("9.6", "10")
    assert golds[2] == ("\\frac12",)
    assert golds[3] == ("025",)
    assert golds[4] == ("1,000",)


@pytest.mark.parametrize("bad", ["", None, [], "  ", float("nan")])
def test_a_bad_gold_answer_is_an_error_that_names_the_row_or_a_counted_drop(make, caplog, bad):
    rows = [*ROWS[:2], {"problem": "hard", "answer": bad}, ROWS[3], {"problem": "harder", "answer": bad}]
    with pytest.raises(UserError, match=r"row 2: no gold answer in field 'answer'.*and 1 more.*data\.bad_gold=drop"):
        load_questions(make(rows))
    with caplog.at_level(logging.INFO, "r1zero"):
        questions = load_questions(make(rows, bad_gold=BadGold.drop))
    assert [question.row for question in questions] == [0, 1, 3]
    assert [r.getMessage() for r in caplog.records if "left out" in r.getMessage()] == [
        f"data 'made' ({make(rows).path}): 2 of 5 rows left out for a bad gold answer (rows 2, 4)"
    ]


def test_no_usable_gold_answer_at_all_is_an_error(make):
    with pytest.raises(UserError, match="no row with a usable gold answer in field 'answer'"):
        load_questions(make([{"problem": "q", "answer": None}], bad_gold=BadGold.drop))


def test_the_verifier_may_judge_the_gold_answers(make):
    """``Grader.audit_golds`` has this shape: indices and reasons of what it can't grade against itself."""
    seen = []

    def check(golds):
        seen.extend(golds)
        return [(1, "gold '2' does not grade right"), (3, "gold '4' does not grade right")]

    with pytest.raises(UserError, match=r"row 1: gold '2' does not grade right \(and 1 more row"):
        load_questions(make(), check=check)
    kept = load_questions(make(bad_gold=BadGold.drop), check=check)
    assert [question.row for question in kept] == [0, 2, 4, 5, 6, 7, 8]
    assert seen[:2] == [("1",), ("2",)]


def test_where_selects_rows_by_value_whatever_its_type(make):
    assert [q.row for q in load_questions(make(where={"level": [1, 2]}))] == [1, 2, 4, 5, 7, 8]
    assert [q.row for q in load_questions(make(where={"level": "0"}))] == [0, 3, 6]
    assert [q.row for q in load_questions(make(where={"level": [1], "answer": [5, 6]}))] == [4]
    with pytest.raises(UserError, match=r"no row with data\.where\.level in \['7'\]; it has: 0, 1, 2"):
        load_questions(make(where={"level": 7}))
    with pytest.raises(UserError, match=r"no field data\.where\.lvl; its fields are: problem, answer, level, tags"):
        load_questions(make(where={"lvl": 1}))


def test_rows_counts_what_where_leaves_and_limit_cuts_after_it(make):
    assert len(load_questions(make(rows=9, limit=2))) == 2
    assert [q.row for q in load_questions(make(where={"level": 2}, rows=3, limit=2))] == [2, 5]
    with pytest.raises(UserError, match=r"has 9 rows where data\.rows=8 are expected"):
        load_questions(make(rows=8))


def test_drop_leaves_rows_out_before_the_limit(make, tmp_path):
    """A file of row numbers, as grade.py --attack writes it."""
    file = tmp_path / "drop.txt"
    file.write_text("2\n\n5  # solved by copying\n")
    assert [q.row for q in load_questions(make(where={"level": 2}, rows=3, drop=str(file), limit=2))] == [8]
    file.write_text("2\nrow 5\n")
    with pytest.raises(UserError, match=r"data\.drop=.*line 2: 'row 5' is not a row number"):
        load_questions(make(drop=str(file)))
    with pytest.raises(UserError, match=r"data\.drop=/no/such/file can't be read"):
        load_questions(make(drop="/no/such/file"))


def test_a_row_without_a_question_is_named(make):
    with pytest.raises(UserError, match="row 1: field 'problem' holds nothing"):
        load_questions(make([ROWS[0], {"answer": 1}]))


def test_generated_questions_follow_the_seed_and_stay_apart_from_the_held_out_ones():
    def load(run_seed, split="train", **params):
        cfg = DataConfig(name="sums", generator="arithmetic", split=split, params={"count": 200, **params})
        return [question.text for question in load_questions(cfg, run_seed)]

    assert load(0) == load(0)
    assert load(0) != load(1)
    assert load(1, seed=0) == load(0)  # a seed in the params is the set's own
    assert not set(load(0) + load(1)) & set(load(0, "heldout"))
    with pytest.raises(UserError, match=r"params\.count=None must be the number"):
        load_questions(DataConfig(name="sums", generator="arithmetic"))
    with pytest.raises(UserError, match="size"):
        load(0, size=3)


def test_prompts_that_are_too_long_are_dropped_and_counted():
    """Trap 27: a 2,000-token prompt with limit 1,024."""
    tokenizer = tiny_tokenizer()
    long = Question("7 " * 2000, ("1",), "made", 1)
    assert len(BARE.encode(long.text, tokenizer)[1]) >= 2000
    short = [Question("What is 1+1?", ("2",), "made", row) for row in (0, 2)]
    prompts, dropped = build_prompts([short[0], long, short[1]], BARE, tokenizer, 1024)
    assert dropped == 1
    assert [prompt.question.row for prompt in prompts] == [0, 2]
    assert prompts[0].text == "What is 1+1?"
    assert prompts[0].ids == tokenizer.encode("What is 1+1?")


def test_the_limit_counts_the_whole_prompt_and_is_inclusive():
    tokenizer = tiny_tokenizer()
    question = Question("What is 1+1?", ("2",), "made", 0)
    length = len(BARE.encode(question.text, tokenizer)[1])
    assert build_prompts([question], BARE, tokenizer, length)[1] == 0
    wrapped = Template("wrapped", "Question: {question}\nAnswer:")
    longer = len(wrapped.encode(question.text, tokenizer)[1])
    with pytest.raises(UserError, match=rf"all 1 prompts of data 'made'.*={length}.*{longer} tokens.*template=wrapped"):
        build_prompts([question], wrapped, tokenizer, length)


REAL = {
    "eval/aime24": 30,
    "eval/amc": 83,
    "eval/math500": 500,
    "eval/minerva": 272,
    "eval/olympiadbench": 675,
    "eval/gsm8k_test": 1319,
    "train/gsm8k_train": 7473,
    "train/asdiv_2k": 1788,
    "train/math_12k": 12000,
    "train/math_lvl3to5": 8886,
}


@pytest.mark.parametrize(("name", "rows"), REAL.items(), ids=REAL.keys())
def test_every_real_set_loads_with_its_known_count(shared, name, rows):
    cfg = DataConfig(name=name, path=f"{shared}/data/{name}.jsonl", rows=rows)
    if name == "train/math_12k":
        with pytest.raises(UserError, match=r"row 9841: no gold answer.*and 1 more row"):
            load_questions(cfg)
        cfg.bad_gold = BadGold.drop
        rows -= 2
    questions = load_questions(cfg)
    assert len(questions) == rows
    assert all(question.text and question.gold for question in questions)


def test_real_gold_answers_of_every_shape(shared):
    minerva = load_questions(DataConfig(name="minerva", path=f"{shared}/data/eval/minerva.jsonl"))
    with open(f"{shared}/data/eval/minerva.jsonl") as file:
        raw = [json.loads(line)["answer"] for line in file]
    lists = [answer if isinstance(answer, list) else [answer] for answer in raw]
    assert sum(len(answers) > 1 for answers in lists) == 75
    # each distinct form is kept once; the forms of most lists differ in dollars and line ends alone
    distinct = [len({form.strip().strip("$").strip() for form in answers}) for answers in lists]
    assert [len(question.gold) for question in minerva] == distinct
    assert all(gold == gold.strip() for question in minerva for gold in question.gold)
    olympiad = load_questions(DataConfig(name="o", path=f"{shared}/data/eval/olympiadbench.jsonl"))
    assert not any(gold.startswith("$") or gold.endswith("$") for question in olympiad for gold in question.gold)
    amc = load_questions(DataConfig(name="amc", path=f"{shared}/data/eval/amc.jsonl"))
    assert amc[0].gold == ("142",)


def test_levels_of_the_real_set_make_the_level_subset(shared):
    """``data=math_lvl3to5`` chooses by level what the file of levels 3-5 holds."""
    path = f"{shared}/data/train/math_12k.jsonl"
    chosen = load_questions(
        DataConfig(name="m", path=path, where={"level": [3, 4, 5]}, bad_gold=BadGold.drop, rows=8888)
    )
    whole = load_questions(DataConfig(name="m", path=f"{shared}/data/train/math_lvl3to5.jsonl"))
    assert [question.text for question in chosen] == [question.text for question in whole]
    assert {question.meta["level"] for question in chosen} == {3, 4, 5}


KEPT = [
    {"problem": f"q{n}", "answer": n, "tests": [{"args": [n], "want": [1, None, "x"]}], "extra": {"deep": {"n": n}}}
    for n in range(3)
]


def test_kept_columns_reach_the_question(make):
    """Of any JSON value, by the name as it is written, dots reach into nested fields."""
    questions = load_questions(make(KEPT, keep=["tests", "extra.deep.n", "extra"]))
    assert [q.meta["tests"] for q in questions] == [row["tests"] for row in KEPT]
    assert [q.meta["extra.deep.n"] for q in questions] == [0, 1, 2]
    assert questions[1].meta["extra"] == {"deep": {"n": 1}}
    assert "tests" not in load_questions(make(KEPT))[0].meta


def test_a_kept_column_that_is_not_there_is_told_early(make):
    for read in (load_questions, check_source):
        with pytest.raises(UserError, match=r"has no column data.keep=test; its columns are: problem, answer, tests"):
            read(make(KEPT, keep=["tests", "test"]))
        with pytest.raises(UserError, match=r"has no column data.keep=extra.n; its columns"):
            read(make(KEPT, keep=["extra.n"]))
    with pytest.raises(UserError, match=r"has no column data\.keep=tests; its columns are: level"):
        load_questions(DataConfig(name="s", generator="arithmetic", params={"count": 2}, keep=["tests"]))


def test_a_column_that_is_not_json_is_told(tmp_path):
    table = pa.table({"problem": ["a"], "answer": ["1"], "when": [datetime.datetime(2025, 1, 2)]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="row 0: column 'when' can't be kept, it is not JSON"):
        load_questions(DataConfig(name="s", path=str(tmp_path / "t.parquet"), keep=["when"]))


def test_without_gold_no_answer_is_needed(make):
    """No field of an answer, no check of golds; multiple choice is as good as any other text."""
    rows = [{"question": f"q{n}", "tests": [n], "options": ["a"]} for n in range(3)]
    cfg = make(rows, gold=Gold.none, keep=["tests"])
    check_source(cfg)
    questions = load_questions(cfg, check=lambda golds: [(0, "never asked")])
    assert [(q.text, q.gold, q.meta) for q in questions] == [(f"q{n}", (), {"tests": [n]}) for n in range(3)]
    with pytest.raises(UserError, match="multiple choice"):
        check_source(make(rows))


def test_programs_have_no_golds():
    cfg = DataConfig(name="p", generator="programs", params={"count": 3}, gold=Gold.none, keep=["tests"])
    assert [q.gold for q in load_questions(cfg)] == [(), (), ()]
    with pytest.raises(UserError, match=r"set data\.gold=none"):
        load_questions(DataConfig(name="p", generator="programs", params={"count": 3}))
    sums = DataConfig(name="s", generator="arithmetic", params={"count": 2}, gold=Gold.none)
    assert [q.gold for q in load_questions(sums)] == [(), ()]
