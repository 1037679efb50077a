"""The shapes table of docs/data.md: each gives these two questions with these golds, or is refused by row and field."""

from __future__ import annotations

import csv
import decimal
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1zero.config import DataConfig
from r1zero.data.prompts import load_questions
from r1zero.errors import UserError

ASKED = ["What is 6*7?", "What is 1/4 as a decimal?"]
GOLDS = [("42",), ("0.25",)]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def rows(make: Any) -> list[Any]:
    return [make(question, gold[0]) for question, gold in zip(ASKED, GOLDS, strict=True)]


SHAPES = {
    "problem/answer": rows(lambda q, a: {"problem": q, "answer": a}),
    "answers as numbers": rows(lambda q, a: {"question": q, "answer": float(a)}),
    "GSM8K": rows(lambda q, a: {"question": q, "answer": f"Working, <<6*7=42>>.\n#### {a}"}),
    "MATH and open-r1": rows(lambda q, a: {"problem": q, "solution": f"So it is $\\boxed{{{a}}}$."}),
    "Numina": rows(
        lambda q, a: {
            "problem": q,
            "solution": f"\\boxed{{{a}}}",
            "messages": [user(q), {"role": "assistant", "content": f"\\boxed{{{a}}}"}],
        }
    ),
    "TRL": rows(lambda q, a: {"prompt": [user(q)], "ground_truth": a}),
    "OpenRLHF": rows(lambda q, a: {"prompt": q, "label": a}),
    "verl": rows(lambda q, a: {"prompt": [user(q)], "reward_model": {"style": "rule", "ground_truth": a}}),
    "chat messages": rows(lambda q, a: {"messages": [user(q), {"role": "assistant", "content": f"\\boxed{{{a}}}"}]}),
    "chat messages in columns": rows(
        lambda q, a: {"messages": {"role": ["user", "assistant"], "content": [q, f"The answer is {a}."]}}
    ),
    "chat messages as JSON text": rows(lambda q, a: {"prompt": json.dumps([user(q)]), "answer": a}),
    "content in parts": rows(lambda q, a: {"prompt": [user([{"type": "text", "text": q}])], "answer": a}),
    "share-style": rows(
        lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": f"\\boxed{{{a}}}"}]}
    ),
    "ORZ": rows(lambda q, a: [{"from": "human", "value": q}, {"from": "assistant", "ground_truth": {"value": a}}]),
    "Alpaca without input": rows(lambda q, a: {"instruction": q, "input": "", "output": f"\\boxed{{{a}}}"}),
    "choices that are empty": rows(lambda q, a: {"question": q, "answer": a, "options": None}),
    "prose that names its answer": rows(lambda q, a: {"question": q, "answer": f"First think. The answer is {a}."}),
    "an answer tag": rows(lambda q, a: {"question": q, "answer": f"<answer>{a}</answer>"}),
    "Final Answer": rows(lambda q, a: {"question": q, "answer": f"Final Answer: {a}"}),
    "rows with other fields": [
        {"question": None, "problem": ASKED[0], "answer": GOLDS[0][0]},
        {"problem": ASKED[1], "answer": GOLDS[1][0], "extra": 1},
    ],
}


def loaded(path: Path, **settings: Any) -> tuple[list[str], list[tuple[str, ...]]]:
    questions = load_questions(DataConfig(name="x", path=str(path), **settings))
    return [q.text for q in questions], [q.gold for q in questions]


def jsonl(path: Path, items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_read(shape: str, tmp_path: Path) -> None:
    assert loaded(jsonl(tmp_path / "a.jsonl", SHAPES[shape])) == (ASKED, GOLDS)


PLAIN = rows(lambda q, a: {"question": q, "answer": a})


def csv_text(delimiter: str) -> str:
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, ["question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(PLAIN)
    return out.getvalue()


def zstd(text: str) -> bytes:
    return pa.compress(text.encode(), codec="zstd", asbytes=True)


LINES = "".join(json.dumps(row) + "\n" for row in PLAIN)
FILES = {
    "a.jsonl": LINES.encode(),
    "a.json": json.dumps(PLAIN).encode(),
    "lists.json": json.dumps({"tags": ["x", "y"], "data": PLAIN}).encode(),
    "splits.json": json.dumps({"train": PLAIN, "test": PLAIN[:1]}).encode(),
    "a.csv": csv_text(",").encode(),
    "a.tsv": csv_text("\t").encode(),
    "a.jsonl.gz": gzip.compress(LINES.encode()),
    "a.jsonl.zst": zstd(LINES),
    "a.json.gz": gzip.compress(json.dumps(PLAIN).encode()),
    "a.csv.gz": gzip.compress(csv_text(",").encode()),
    "a.tsv.zst": zstd(csv_text("\t")),
    "bom.csv": b"\xef\xbb\xbf" + csv_text(",").encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_each_container_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert loaded(tmp_path / name) == (ASKED, GOLDS)


ANSWERS: dict[str, tuple[pa.DataType, list[Any], list[str]]] = {
    "float16": (pa.float16(), [0.1, 2.5], ["0.1", "2.5"]),
    "float32": (pa.float32(), [0.1, 3.14], ["0.1", "3.14"]),
    "float64": (pa.float64(), [0.1 + 0.2, 42.0], ["0.3", "42"]),
    "int8": (pa.int8(), [-3, 7], ["-3", "7"]),
    "uint64": (pa.uint64(), [2**63, 7], [str(2**63), "7"]),
    "decimal": (pa.decimal128(30, 2), [decimal.Decimal("12345678901234567890.50"), decimal.Decimal("7.00")],
                ["12345678901234567890.5", "7"]),
    "string": (pa.string(), ["3", "\\frac{1}{2}"], ["3", "\\frac{1}{2}"]),
    "large_string": (pa.large_string(), ["3", "4"], ["3", "4"]),
    "binary": (pa.binary(), [b"3", b"51"], ["3", "51"]),
    "fixed binary": (pa.binary(2), [b"33", b"51"], ["33", "51"]),
    "list of float32": (pa.list_(pa.float32()), [[0.1], [2.0]], ["0.1", "2"]),
    "list of binary": (pa.list_(pa.binary()), [[b"3"], [b"4"]], ["3", "4"]),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), ["3", "4"], ["3", "4"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("container", ["file", "folder"])
def test_each_type_of_a_parquet_column_is_read(kind: str, container: str, tmp_path: Path) -> None:
    dtype, values, golds = ANSWERS[kind]
    import numpy as np

    values = [np.float16(v) for v in values] if kind == "float16" else values
    table = pa.table({"question": ["a", "b"], "answer": pa.array(values, dtype)})
    pq.write_table(table, tmp_path / "train.parquet")
    path = tmp_path / "train.parquet" if container == "file" else tmp_path
    assert loaded(path)[1] == [(gold,) for gold in golds]


def test_a_record_of_float32_and_bytes_is_read(tmp_path: Path) -> None:
    kind = pa.struct([("ground_truth", pa.float32()), ("style", pa.binary())])
    table = pa.table({"prompt": [b"What?"], "reward_model": pa.array([{"ground_truth": 0.1, "style": b"rule"}], kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert loaded(tmp_path / "a.parquet") == (["What?"], [("0.1",)])


def test_a_dataset_dict_folder_and_a_hub_layout_are_read(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_list(PLAIN)
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(tmp_path / "saved")
    assert loaded(tmp_path / "saved") == (ASKED, GOLDS)
    assert loaded(tmp_path / "saved", split="test") == (ASKED[:1], GOLDS[:1])
    hub = tmp_path / "hub"
    (hub / "data").mkdir(parents=True)
    jsonl(hub / "data" / "one.jsonl", PLAIN)
    (hub / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/one.jsonl\n---\n"
    )
    assert loaded(hub) == (ASKED, GOLDS)


def test_instruction_and_input_are_one_question(shared: Path) -> None:
    asked, golds = loaded(shared / "data" / "found" / "alpaca.jsonl")
    assert asked[0] == "Solve the problem.\n\nWhat is 1+2?"
    assert golds == [("3",), ("4",), ("5",), ("6",)]


def test_a_context_stands_in_front_of_its_question(tmp_path: Path) -> None:
    made = [
        {"question": "How many?", "context": "Tom has 3 apples.", "answer": "3"},
        {"question": "And now?", "context": None, "answer": "4"},
    ]
    assert loaded(jsonl(tmp_path / "a.jsonl", made))[0] == ["Tom has 3 apples.\n\nHow many?", "And now?"]


WRONG = {
    "two questions": ({"question": "a?", "input": "b c", "answer": "1"}, "two fields that may hold the question, 'qu"),
    "choices": ({"question": "a?", "options": ["1", "2"], "answer": "A"}, "multiple choice (field 'options')"),
    "a context of fields": ({"question": "a?", "context": {"t": 1}, "answer": "1"}, "row 0: field 'context' holds"),
    "an image": (
        {"prompt": [user([{"type": "image"}, {"type": "text", "text": "a?"}])], "answer": "1"},
        "row 0: field 'prompt': a message holds a part that is not text (image)",
    ),
    "a tool": (
        {"prompt": [user("a?"), {"role": "tool", "content": "x"}], "answer": "1"},
        "row 0: field 'prompt': a conversation with a message of 'tool'",
    ),
    "half a character": (
        {"question": "What is \ud83d 1+1?", "answer": "2"},
        "row 0: field 'question' holds half a char",
    ),
    "half a character as gold": (
        {"question": "a?", "answer": "2\ud83d"},
        "row 0: field 'answer' holds half a char",
    ),
    "prose": (
        {"question": "a?", "answer": "Add them. Then divide."},
        "row 0: field 'answer' holds prose that names no",
    ),
    "two answers in prose": (
        {"question": "a?", "answer": "The answer is 3. No, the answer is 4."},
        "row 0: field 'answer' holds prose that names no single answer",
    ),
    "a record as gold": ({"question": "a?", "answer": {"x": 1}}, "row 0: no gold answer in field 'answer'"),
    "a truth value": ({"question": "a?", "answer": True}, "row 0: no gold answer in field 'answer' (True)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_understood_is_refused_by_row_and_field(name: str, tmp_path: Path) -> None:
    row, says = WRONG[name]
    with pytest.raises(UserError) as error:
        loaded(jsonl(tmp_path / "a.jsonl", [row]))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"], "answer": [b"\xff\xfe"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="row 0: field 'answer' holds bytes that are not UTF-8"):
        loaded(tmp_path / "a.parquet")


def test_several_arrays_are_chosen_by_split(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"train": PLAIN, "test": PLAIN[:1]}))
    assert loaded(tmp_path / "a.json", split="test")[0] == ASKED[:1]
    with pytest.raises(UserError, match=r"several: choose one by data\.split from train, test"):
        loaded(tmp_path / "a.json", split="dev")


UNREADABLE = {
    "latin.csv": (b"question,answer\ncaf\xe9,1\n", "latin.csv is not UTF-8 text after line"),
    "long.csv": (b"question,answer\n" + b"x" * (1 << 24) + b"x,1\n", "long.csv line 2 can't be read: field larger"),
    "twice.csv": (b"question,question,answer\na,b,1\n", "twice.csv has several columns named 'question'; give each"),
    "open.csv": (b'question,answer\n"abc,1\n', "open.csv line 2 has another number of fields"),
    "deep.jsonl": (
        b'{"question": "a", "answer": ' + b"[" * 300 + b"]" * 300 + b"}\n",
        "line 1 can't be read: nested more",
    ),
    "deep.json": (b"[" * 100_000, "deep.json can't be read: nested more than 100 deep"),
    "digits.jsonl": (b'{"answer": ' + b"9" * 5000 + b"}\n", "line 1 can't be read: Exceeds the limit"),
    "twice.jsonl": (
        b'{"question": "a", "question": "b", "answer": "1"}\n',
        "line 1 can't be read: an object has 'question' twice",
    ),
    "cut.parquet": (b"PAR1\0\0\0\0", "cut.parquet can't be read as parquet"),
    "text.parquet": (b"question,answer\n", "text.parquet can't be read as parquet"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_are_not_what_they_are_called_end_in_one_line(name: str, tmp_path: Path) -> None:
    """C12, for questions: other encodings, nesting, lengths, columns."""
    content, says = UNREADABLE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        loaded(tmp_path / name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_columns_that_a_row_can_not_hold_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"])] * 2 + [pa.array(["1"])], ["question", "question", "answer"]), file
    )
    with pytest.raises(UserError, match="several columns named 'question'"):
        loaded(file)
    pairs = pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"question": ["a"], "answer": pairs}), file)
    with pytest.raises(UserError, match=r"row 0: no gold answer in field 'answer' \(\{'k': 1\}\)"):
        loaded(file)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_cut_packed_file_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name][:-20])
    with pytest.raises(UserError, match=f"{name} can't be read") as error:
        loaded(tmp_path / name)
    assert "\n" not in str(error.value)


def test_content_that_no_prompt_shows_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    system = {"role": "system", "content": "Box it."}
    row = {"prompt": [system, user("a?")], "options": ["1", "2"], "context": "c", "images": ["x.png"], "answer": "1"}
    path = jsonl(tmp_path / "a.jsonl", [row])
    with caplog.at_level(logging.WARNING, logger="r1zero"):
        loaded(path, question_key="prompt", answer_key="answer")
    assert "the system message of 'prompt' (template.system sets one)" in caplog.text
    assert "'options' (the choices)" in caplog.text
    assert "'images' (models read text alone)" in caplog.text
    assert "'context' (data.question_key names another field)" in caplog.text
