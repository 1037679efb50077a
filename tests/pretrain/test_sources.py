"""Sources of text on disk: every kind of file, positions, question-answer text, and what is wrong with one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1zero.errors import UserError
from r1zero.pretrain.checks import check_vocabulary
from r1zero.pretrain.config import SourceConfig, TextConfig
from r1zero.pretrain.corpus import Corpus, active_sources
from r1zero.pretrain.formats import form_of, qa_text
from r1zero.pretrain.readers import reader_of

COUNT = 23
TEXTS = [f"text {number} \u2014 with\u2028marks" for number in range(COUNT)]


def write(folder: Path, name: str, texts: list[str] = TEXTS) -> Path:
    file = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": texts}), file, row_group_size=5)
        return file
    if ".jsonl" in name:
        content = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts) + "\n\n"
    else:
        content = "\n\n \n".join(texts) + "\n"
    file.write_bytes(gzip.compress(content.encode(), mtime=0) if name.endswith(".gz") else content.encode())
    return file


def texts_of(path: Path | str, start: int = 0, **settings: Any) -> list[str]:
    reader = reader_of(SourceConfig(path=str(path), **settings), "data.sources.x")
    return [record["text"] for _, record in reader.read(start)]


def corpus(path: Path | str, heldout: int = 2, **settings: Any) -> Corpus:
    cfg = TextConfig(
        name="text", sources={"x": SourceConfig(path=str(path), **settings)}, mix={"x": 1.0}, heldout_documents=heldout
    )
    return Corpus(cfg, 0)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt", "a.txt.gz"])
def test_a_start_equals_skipping(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, name)
    assert texts_of(file) == TEXTS
    for start in (1, 5, 7, 22, 23, 30):
        assert texts_of(file, start) == TEXTS[start:]


def test_a_folder_and_a_pattern_are_one_source(tmp_path: Path) -> None:
    names = ["a.jsonl", "b.parquet", "c.txt", "d.jsonl.gz"]
    for name in names:
        write(tmp_path, name)
    (tmp_path / "README.md").write_text("no text of the source")
    assert texts_of(tmp_path) == TEXTS * 4
    for start in (22, 23, 30, 46, 50, 91, 92):
        assert texts_of(tmp_path, start) == (TEXTS * 4)[start:]
    assert texts_of(tmp_path / "*.jsonl*") == TEXTS * 2


def test_the_documents_of_a_plain_text_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff\nfirst\n  indented\n\n\nsecond\nmore\n".encode())
    assert texts_of(file) == ["first\n  indented", "second\nmore"]
    assert texts_of(file, separate="line") == ["first", "  indented", "second", "more"]
    assert texts_of(file, 1, separate="line") == ["  indented", "second", "more"]
    assert texts_of(file, separate="file") == ["first\n  indented\n\n\nsecond\nmore"]


SOLVED = [{"question": f"What is {n} + {n}?", "solution": f"{n} + {n} = {2 * n}.", "n": n} for n in range(COUNT)]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A hub data set of worked solutions as a download leaves it: two subsets of two splits, in shards."""
    configs = []
    for subset, rows in (("main", SOLVED), ("other", SOLVED[:5])):
        (tmp_path / "set" / subset).mkdir(parents=True)
        for name, part in (("train-00000-of-00002", rows[:9]), ("train-00001-of-00002", rows[9:]),
                           ("test-00000-of-00001", [{"question": "a test", "solution": "no", "n": -1}])):  # fmt: skip
            if part:
                pq.write_table(pa.Table.from_pylist(part), tmp_path / "set" / subset / f"{name}.parquet")
        files = "".join(f"  - split: {split}\n    path: {subset}/{split}-*\n" for split in ("train", "test"))
        configs.append(f"- config_name: {subset}\n  data_files:\n{files}")
    (tmp_path / "set" / "README.md").write_text(f"---\nlicense: mit\nconfigs:\n{''.join(configs)}---\n# Sums\n")
    return tmp_path / "set"


QA = {"format": "qa_text", "template": "Q: {question}\nA: {answer}"}


def test_worked_solutions_of_a_copied_hub_data_set_are_question_answer_text(copied: Path) -> None:
    """The fields are found by name; the split and subset that are asked for are read, in order, from any position."""
    found = corpus(copied, heldout=2, subset="main", shuffle_buffer=1, **QA)
    texts: list[str] = []

    def encode(text: str) -> list[int]:
        texts.append(text)
        return [len(texts)]

    found.heldout(encode)
    documents = found.documents(encode)
    for _ in range(COUNT - 2):
        documents.read(0.0)
    assert texts == [f"Q: {row['question']}\nA: {row['solution']}" for row in SOLVED]
    state = documents.state_dict()
    documents.read(0.0)
    again = corpus(copied, heldout=2, subset="main", shuffle_buffer=1, **QA).documents(encode)
    again.load_state_dict(state)
    again.read(0.0)
    assert texts[-1] == texts[-2] == f"Q: {SOLVED[2]['question']}\nA: {SOLVED[2]['solution']}", "the next pass"
    test = reader_of(SourceConfig(path=str(copied), subset="main", split="test"), "data.sources.x")
    assert [record["n"] for _, record in test.read(0)] == [-1]


def test_what_is_wrong_with_a_copied_hub_data_set_is_one_line(copied: Path) -> None:
    for settings, says in (
        ({"subset": "nowhere"}, "nowhere"),
        ({"subset": "main", "split": "dev"}, "dev"),
        ({}, "main"),
    ):
        with pytest.raises(UserError, match=says) as error:
            corpus(copied, **settings)
        assert one_line(error).startswith(f"data.sources.x.path={copied} can't be loaded")


def test_a_data_set_that_was_saved_to_disk(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(SOLVED)
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "saved")
    for split, rows in (("train", SOLVED), ("test", SOLVED[:1])):
        reader = reader_of(SourceConfig(path=str(tmp_path / "saved"), split=split), "data.sources.x")
        for start in (0, 1, 9, 30):
            assert [record for _, record in reader.read(start)] == rows[start:]
    with pytest.raises(UserError, match=r"has no split dev; data\.sources\.x\.split is one of train, test") as error:
        corpus(tmp_path / "saved", split="dev")
    one_line(error)


def test_a_folder_of_several_splits_is_read_by_its_split(copied: Path, tmp_path: Path) -> None:
    """Else a model would be trained on the questions that it is asked later (trap 36)."""
    for split, count in (("train", COUNT), ("test", 1)):
        reader = reader_of(SourceConfig(path=str(copied / "main"), split=split), "data.sources.x")
        assert len(list(reader.read(0))) == count
    with pytest.raises(UserError, match=r"main has no files of split dev, only of test, train") as error:
        reader_of(SourceConfig(path=str(copied / "main"), split="dev"), "data.sources.x")
    one_line(error)
    for name in ("train.jsonl", "test.jsonl", "notes.jsonl"):
        write(tmp_path, name, [name])
    assert texts_of(tmp_path) == ["notes.jsonl", "train.jsonl"]
    (tmp_path / "train.jsonl").unlink()
    assert texts_of(tmp_path) == ["notes.jsonl", "test.jsonl"], "a file that is called test is no split by itself"


def test_held_out_text_of_another_hub_data_set(copied: Path, tmp_path: Path) -> None:
    """What is held out is the other set's; the first documents of path are trained on."""
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SOLVED[10:]))
    found = corpus(file, heldout=2, heldout_path=str(copied), subset="main", shuffle_buffer=1, **QA)
    texts: list[str] = []
    found.heldout(lambda text: texts.append(text) or [1])
    found.documents(lambda text: texts.append(text) or [1]).read(0.0)
    assert [text.partition(" +")[0] for text in texts] == ["Q: What is 0", "Q: What is 1", "Q: What is 10"]


def test_the_first_documents_are_held_out_and_never_trained_on(tmp_path: Path) -> None:
    texts = [str(number) for number in range(COUNT)]
    file = write(tmp_path, "a.jsonl", texts)
    found = corpus(file, heldout=4, shuffle_buffer=5)

    def encode(text: str) -> list[int]:
        return [int(text)]

    assert found.heldout(encode) == {"x": [[0], [1], [2], [3]]}
    documents = found.documents(encode)
    assert sorted(documents.read(0.0)[0] for _ in range(19)) == list(range(4, COUNT))
    assert list(found.sample(3)) == ["4", "5", "6"]
    assert found.tokens_of_a_pass(encode) == 19
    other = write(tmp_path, "b.jsonl", ["77", "78"])
    apart = corpus(file, heldout=2, heldout_path=str(other))
    assert apart.heldout(encode) == {"x": [[77], [78]]}
    documents = apart.documents(encode)
    assert sorted(documents.read(0.0)[0] for _ in range(COUNT)) == list(range(COUNT))


GSM = {"question": "How many are 3 and 4?", "answer": "Add: 3+4 = <<3+4=7>>7 apples.\nTimes 1000.\n#### 7,000"}


def test_question_answer_text_by_hand() -> None:
    template = "Q: {question}\nA: {answer}"
    plain = qa_text(GSM["question"], GSM["answer"], template, box=False)
    assert plain == "Q: How many are 3 and 4?\nA: Add: 3+4 = 7 apples.\nTimes 1000.\n#### 7,000"
    boxed = qa_text(GSM["question"], GSM["answer"], template, box=True)
    assert boxed == (
        "Q: How many are 3 and 4?\nA: Add: 3+4 = 7 apples.\nTimes 1000.\nThe final answer is \\boxed{7000}."
    )
    assert qa_text("q", "#### 7", "{question} {answer}", box=True).endswith("The final answer is \\boxed{7}.")
    assert qa_text("q", "12.", template, box=True) == "Q: q\nA: \\boxed{12}"
    assert qa_text("q", "so \\boxed{3}.", template, box=True) == "Q: q\nA: so \\boxed{3}."
    assert qa_text("what is {answer}?", "{question}", template, box=False) == "Q: what is {answer}?\nA: {question}"


@pytest.mark.parametrize(
    ("record", "settings", "document"),
    [
        (GSM, {"box": True, "template": "{question} {answer}"}, None),
        ({"problem": "p", "solution": "s", "answer": "a"}, {}, "p\ns"),
        ({"problem": "p", "solution": "s", "answer": "a"}, {"answer_key": "answer"}, "p\na"),
        ({"Question": "p", "Answer": 7}, {}, "p\n7"),
        ({"Question": "p", "Answer": 0.1 + 0.2}, {}, "p\n0.3"),
        ({"q": {"text": "p"}, "a": ["7", "seven"]}, {"question_key": "q.text", "answer_key": "a"}, "p\n7"),
        (
            {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "think. It is 7."}]},
            {},
            "p\nthink. It is 7.",
        ),
    ],
)
def test_fields_are_found_by_name_or_named(record: dict, settings: dict, document: str | None) -> None:
    made = form_of(SourceConfig(format="qa_text", path="x", **settings), record, "x")(record, "x record 0")
    assert made == document if document is not None else made.endswith("\\boxed{7000}.")


@pytest.mark.parametrize(
    ("record", "settings", "says"),
    [
        (
            {"q": "p", "answer": "a"},
            {},
            "for the question; name it with data.sources.x.question_key. Its fields",
        ),
        ({"question": "p", "r": "a"}, {}, "name it with data.sources.x.answer_key. Its fields are: question, r"),
        ({"question": "p", "answer": "a"}, {"question_key": "qq"}, "no field data.sources.x.question_key=qq"),
        ({"question": "p", "answer": "a"}, {"template": "{question}"}, "{answer} exactly once"),
        ({"question": "", "answer": "a"}, {}, "'question' is empty"),
        ({"question": "p", "answer": None}, {}, "no field 'answer'"),
        ({"question": "p", "answer": True}, {}, "no field 'answer', or nothing in it"),
        ({"question": "p", "answer": b"\xff"}, {}, "field 'answer' holds a bytes, not text"),
        ({"question": "p", "answer": "7\ud83d"}, {}, "field 'answer' holds half a character"),
        ({"question": "p", "answer": " "}, {}, "no field 'answer', or nothing in it"),
        ({"question": "p", "answer": {"value": 7}}, {}, "field 'answer' holds a dict, not text"),
        ({"question": "p", "answer": [{"value": 7}]}, {}, "no field 'answer', or nothing in it"),
    ],
)
def test_records_that_make_no_question_answer_text(record: dict, settings: dict, says: str) -> None:
    source = SourceConfig(**{"format": "qa_text", "path": "x", **settings})
    with pytest.raises(UserError) as error:
        form_of(source, record, "data.sources.x")(record, "x record 0")
    assert says in one_line(error)


def test_content_that_is_left_out_of_the_text_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """B5, for text."""
    record = {"question": "How many?", "context": "Tom has 3 apples.", "answer": "3"}
    made = form_of(SourceConfig(format="qa_text", path="x"), record, "data.sources.x")(record, "x record 0")
    assert made == "Tom has 3 apples.\n\nHow many?\n3"
    assert not caplog.records
    form_of(SourceConfig(format="qa_text", path="x", question_key="question"), record, "data.sources.x")
    assert "data.sources.x (x): left out of the text: 'context'" in caplog.text


def test_bytes_and_short_floats_of_a_parquet_file_are_what_they_mean(tmp_path: Path) -> None:
    """B6, B7, for text: 0.1 of 32 bits and b"What?" in columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": [b"Who?", b"What?"], "answer": pa.array([1, 0.1], pa.float32())}), file)
    assert list(corpus(file, heldout=1, format="qa_text").sample(1)) == ["What?\n0.1"]


def test_records_that_make_no_document_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One record without its solution, far inside a set that nobody can mend, need not end a run of days."""
    rows = [{"question": f"q{n}", "solution": None if n in (1, 4, 5) else f"s{n}"} for n in range(7)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = corpus(file, heldout=2, drop_bad=True, shuffle_buffer=1, format="qa_text")
    texts: list[str] = []

    def encode(text: str) -> list[int]:
        texts.append(text)
        return [1]

    assert found.heldout(encode) == {"x": [[1]]}
    assert found.tokens_of_a_pass(encode) == 3
    assert list(found.sample(3)) == ["q2\ns2", "q3\ns3", "q6\ns6"]
    documents = found.documents(encode)
    texts.clear()
    for _ in range(4):
        documents.read(0.0)
    assert texts == ["q2\ns2", "q3\ns3", "q6\ns6", "q2\ns2"]
    assert [record.message for record in caplog.records] == [
        f"data.sources.x ({file}): left out: {file} line 2 has no field 'solution', or nothing in it; others like it "
        "are left out without a word"
    ]
    with pytest.raises(UserError, match="line 2 has no field 'solution'"):
        corpus(file, heldout=2, format="qa_text").heldout(encode)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "is an empty file"),
        ("a.txt", b" \n\n", "holds no documents"),
        ("a.jsonl", b'{"text": "a"\n', "a.jsonl line 1 is not JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1 is not an object"),
        ("a.jsonl", b'{"txt": "a", "id": 1}\n', "has no field 'text'"),
        ("a.jsonl", b'{"text": 5}\n', "field 'text' holds a int"),
        ("a.jsonl", b'{"text": "a\\ud83d"}\n', "line 1: field 'text' holds half a character"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", "line 1 can't be read: Exceeds the limit"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1 can't be read: nested more than 100 deep"),
        ("a.jsonl", b'{"text": "a"}\n{"other": "b"}\n', "line 2: field 'text' is missing"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 500, mtime=0)[:-20], "not a whole gzip file"),
        ("a.jsonl.gz", b'{"text": "a"}\n', "not a whole gzip file"),
        ("a.txt.gz", gzip.compress(b"abc", mtime=0)[:10] + b"\xff" * 30, "not a whole gzip file"),
        ("a.txt", b"caf\xe9\n", "not UTF-8"),
        ("a.parquet", b"PAR1 nothing", "can't be read as parquet"),
        ("a.csv", b"text\na\n", "no known suffix"),
        ("a.jsonl", b'{"text": "a"}\n', "1 documents only, and 2 are to be held out"),
        ("a.jsonl", b'{"text": "a"}\n' * 2, "no document to train on"),
    ],
)
def test_bad_files_are_one_line(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    def use() -> None:
        found = corpus(file)
        found.heldout(lambda text: [1])
        found.documents(lambda text: [1]).read(0.0)

    with pytest.raises(UserError) as error:
        use()
    assert says in one_line(error)
    assert "data.sources.x" in str(error.value) or "source 'x'" in str(error.value) or name in str(error.value)


@pytest.mark.parametrize(
    ("path", "settings", "says"),
    [
        ("/nowhere/a.jsonl", {}, "path=/nowhere/a.jsonl does not exist"),
        ("/nowhere/*.jsonl", {}, "no file matches"),
        ("a.jsonl", {"text_key": "body"}, "has no field 'body'"),
        ("empty", {}, "holds no file of a known kind"),
    ],
)
def test_bad_settings_of_a_source_are_one_line(
    path: str, settings: dict, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        corpus(path, **settings)
    assert says in one_line(error)


@pytest.mark.parametrize(
    ("mix", "says"),
    [
        ({}, "data.mix is empty"),
        ({"x": None}, "data.mix is empty"),
        ({"y": 1.0}, "data.mix.y is an unknown source"),
    ],
)
def test_bad_mixtures_are_one_line(mix: dict, says: str) -> None:
    with pytest.raises(UserError) as error:
        active_sources(TextConfig(name="text", sources={"x": SourceConfig()}, mix=mix))
    assert says in one_line(error)


@pytest.mark.parametrize(("rows", "fits"), [(384, True), (400, True), (383, False), (50_000, False)])
def test_tokenizer_and_model_of_different_vocabularies(rows: int, fits: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": rows}))
    tokenizer = range(384)
    if fits:
        check_vocabulary(tmp_path, tokenizer, "some/model")
        return
    with pytest.raises(UserError, match=f"has 384 entries and the model {rows}") as error:
        check_vocabulary(tmp_path, tokenizer, "some/model")
    one_line(error)
