"""Question and gold answer in every shape that public sets have (the schema variants of data.md)."""

from __future__ import annotations

import pytest

from r1zero.data.fields import as_row, columns_of, lookup, resolve
from r1zero.errors import UserError
from r1zero.reward.gold import prepare_gold

CHAT = [{"role": "system", "content": "Box it."}, {"role": "user", "content": "What is 6*7?"}]
ORZ = [
    {"from": "human", "value": "What is 6*7?"},
    {"from": "assistant", "ground_truth": {"value": "42"}},
]
VARIANTS = {
    "problem/answer": {"problem": "What is 6*7?", "answer": "42"},
    "problem/answer float": {"problem": "What is 6*7?", "answer": 42.0},
    "problem/answer list": {"problem": "What is 6*7?", "answer": ["42\n"]},
    "capital names": {"ID": "2024-I-1", "Problem": "What is 6*7?", "Solution": "six sevens", "Answer": 42},
    "gsm8k": {"question": "What is 6*7?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"},
    "gsm8k of another suite": {"question": "What is 6*7?", "solution": "It is <<6*7=42>>42.\n#### 42"},
    "solution with boxes": {"problem": "What is 6*7?", "solution": "First \\boxed{6}, then $\\boxed{42}$.", "level": 3},
    "olympiadbench": {
        "question": "What is 6*7?",
        "solution": ["long prose"],
        "final_answer": ["42"],
        "unit": None,
        "answer_type": "Numerical",
    },
    "input beside the plain question": {
        "input": "<|im_start|>user\nWhat is 6*7?<|im_end|>",
        "question": "What is 6*7?",
        "gt_answer": "42",
        "output": "prose",
    },
    "mawps": {"input": "What is 6*7?", "target": 42.0},
    "prompt/label": {"prompt": "What is 6*7?", "label": "42"},
    "prompt/ground_truth": {"prompt": "What is 6*7?", "ground_truth": "42"},
    "verl": {"data_source": "m", "prompt": CHAT, "reward_model": {"style": "rule", "ground_truth": "42"}},
    "sft messages": {"messages": [*CHAT, {"role": "assistant", "content": "So it is \\boxed{42}."}]},
    "share-style conversations": {
        "conversations": [{"from": "human", "value": "What is 6*7?"}, {"from": "gpt", "value": "\\boxed{42}"}]
    },
    "bare conversation": ORZ,
    "bare conversation as a table": {"0": ORZ[0], "1": ORZ[1]},
}


@pytest.mark.parametrize("item", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_public_variant_gives_question_and_gold(item):
    row = as_row(item)
    found = resolve(row, None, None, "data 'x'")
    assert found.question_of(row) == "What is 6*7?"
    assert prepare_gold(found.gold_of(row)) == ("42",)


@pytest.mark.parametrize(
    ("answer", "gold"), [("9 (apples)", "9"), ("1,200 (km)", "1,200"), ("3/4 (of it)", "3/4"), ("Tom", "Tom")]
)
def test_body_and_question_are_joined_and_the_unit_is_no_answer(answer, gold):
    row = {"body": "Tom has 4 apples.", "question": "How many has he after buying 5?", "answer": answer}
    found = resolve(row, None, None, "x")
    assert found.question_of(row) == "Tom has 4 apples. How many has he after buying 5?"
    assert found.gold_of(row) == gold


def test_two_quantities_are_no_single_answer():
    row = {"Body": "b", "Question": "q", "Answer": "5 (red); 3 (blue)"}
    assert resolve(row, None, None, "x").gold_of(row) is None


def test_a_unit_in_brackets_stays_outside_such_sets():
    row = {"question": "q", "answer": "9 (mod 11)"}
    assert resolve(row, None, None, "x").gold_of(row) == "9 (mod 11)"


def test_named_fields_win_and_dots_reach_into_records_and_lists():
    row = {"problem": "no", "extra": {"q": "yes", "golds": ["7", "8"]}, "answer": "no", "a.b": "flat"}
    found = resolve(row, "extra.q", "extra.golds.1", "x")
    assert (found.question_of(row), found.gold_of(row)) == ("yes", "8")
    assert lookup(row, "a.b") == "flat"
    assert lookup(row, "extra.golds.5") is None
    assert columns_of(row) == ["problem", "extra.q", "extra.golds", "answer", "a.b"]


def test_a_named_solution_field_gives_the_answer_it_states():
    row = {"q": "q", "solution": "thus \\boxed{\\frac{1}{2}}", "answer": "ignored"}
    assert prepare_gold(resolve(row, "q", "solution", "x").gold_of(row)) == ("\\frac{1}{2}",)


def test_prose_is_no_gold_answer():
    row = {"problem": "q", "solution": "The proof is left to the reader."}
    assert resolve(row, None, None, "x").gold_of(row) is None
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no idea"}]}
    assert resolve(row, None, None, "x").gold_of(row) is None


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "options": ["A)1", "B)2"], "correct": "A"},
        {"question": "q", "choices": ["1", "2"], "answer": 1},
        {"question": "q", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "C"},
    ],
)
def test_multiple_choice_is_refused(row):
    with pytest.raises(UserError, match="multiple choice"):
        resolve(row, None, None, "data 'aqua'")
    assert resolve(row, None, "question", "x").answer == "question"  # unless the user names the answer


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        ({"problem": "q", "n": 3}, (None, None), "name it with data.answer_key. Its fields are: problem, n"),
        ({"text": "q", "answer": "3"}, (None, None), "name it with data.question_key. Its fields are: text, answer"),
        ({"problem": "q", "r": {"gt": 1}}, (None, "r.x"), "data.answer_key=r.x; its fields are: problem, r.gt"),
        ({"problem": "q", "answer": 1}, ("quest", None), "no field data.question_key=quest"),
    ],
)  # fmt: skip
def test_what_is_not_found_names_the_columns(row, keys, message):
    with pytest.raises(UserError) as error:
        resolve(row, *keys, "data 'x'")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": None, "answer": "1"}, "holds nothing, not text"),
        ({"problem": 12, "answer": "1"}, "holds a int, not text"),
        ({"problem": "  ", "answer": "1"}, "is empty"),
        ({"input": "<|im_start|>user\nq<|im_end|>", "answer": "1"}, "in a chat template already"),
        ({"prompt": [*CHAT, {"role": "user", "content": "And 2*3?"}], "label": "6"}, "2 messages of the user"),
    ],
)
def test_what_is_no_question_says_why(row, message):
    with pytest.raises(ValueError, match=message):
        resolve(row, None, None, "x").question_of(row)


def test_elements_that_are_no_rows():
    assert as_row("text") is None
    assert as_row([1, 2]) is None
    assert as_row([]) is None
