"""Reading rows from files, folders and the hub's cache, and what is said when that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request

import pytest

from r1zero.config import DataConfig
from r1zero.data import hub
from r1zero.data.sources import check_source, read_rows, source_kind
from r1zero.errors import UserError

ROWS = [{"problem": f"What is {i}+1?", "answer": str(i + 1)} for i in range(5)]


def at(path, **keywords) -> DataConfig:
    return DataConfig(name="x", path=str(path), **keywords)


@pytest.fixture
def files(tmp_path):
    """The same rows in every container."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    (tmp_path / "lines.json").write_text("\n".join(json.dumps(row) for row in ROWS))
    (tmp_path / "a.csv").write_text("problem,answer\n" + "".join(f'"{r["problem"]}",{r["answer"]}\n' for r in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "UPPER.JSONL").write_text((tmp_path / "a.jsonl").read_text())
    (tmp_path / "bom.jsonl").write_text("\ufeff" + json.dumps(ROWS[0]), encoding="utf-8")
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(tmp_path / "saved_dict")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "train.jsonl").write_text((tmp_path / "a.jsonl").read_text())
    return tmp_path


FILES = ["a.jsonl", "a.json", "wrapped.json", "lines.json", "a.csv", "a.parquet", "UPPER.JSONL"]


@pytest.mark.parametrize("name", [*FILES, "saved", "saved_dict", "plain"])
def test_every_container_gives_the_same_rows(files, name):
    cfg = at(files / name)
    check_source(cfg)
    assert read_rows(cfg) == ROWS


def test_the_split_of_a_saved_dict_is_chosen(files):
    assert read_rows(at(files / "saved_dict", split="test")) == ROWS[:1]
    with pytest.raises(UserError, match=r"has no split dev; data\.split is one of train, test"):
        read_rows(at(files / "saved_dict", split="dev"))
    with pytest.raises(UserError, match="can't be loaded") as error:
        read_rows(at(files / "plain", split="dev"))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_and_a_home_folder_are_understood(files, monkeypatch):
    assert read_rows(at(files / "bom.jsonl")) == ROWS[:1]
    monkeypatch.setenv("HOME", str(files))
    assert source_kind(at("~/a.jsonl")) == "file"
    assert read_rows(at("~/a.jsonl")) == ROWS


@pytest.mark.parametrize(("path", "kind"), [("openai/gsm8k", "hub"), ("gsm8k", "hub"), ("Org-1/set_2.x", "hub")])
def test_hub_ids_are_told_from_paths(path, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_kind(at(path)) == kind


@pytest.mark.parametrize(
    "path", ["/nowhere", "../nowhere", "./nowhere", "a/b/c", "nowhere.jsonl", "org/name.parquet", "~/no"]
)
def test_a_path_that_does_not_exist_is_never_looked_for_on_the_hub(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (check_source, read_rows):
        with pytest.raises(UserError, match="does not exist") as error:
            call(at(path))
        assert path in str(error.value)
        assert "hub" not in str(error.value)


BROKEN = {
    "empty.jsonl": ("", "is an empty file|holds no rows"),
    "blank.jsonl": ("\n\n", "holds no rows"),
    "bad.jsonl": ('{"problem": "q", "answer": "1"}\n{"problem": \n', "bad.jsonl line 2 is not JSON"),
    "bad.json": ('[{"problem": "q",\n "answer": }]', "bad.json line 2 is not JSON"),
    "text.jsonl": ('"just text"\n', "line 1 is a str, not an object"),
    "nested.json": ('[{"problem": "q", "answer": "1"}, 3]', "element 1 is a int, not an object"),
    "object.json": ('{"a": 1, "b": 2}', "one such array; it holds an object with: a, b"),
    "number.json": ("3", "must hold an array of rows; it holds a int"),
    "ragged.csv": ("problem,answer\nq,1\nq,2,3\n", "line 3 has another number of fields"),
    "head.csv": ("problem,answer\n", "holds no rows"),
    "not.parquet": ("PAR1 or not", "can't be read as parquet"),
    "words.txt": ("q", "has no known suffix; known are .jsonl, .json, .csv, .tsv, .parquet"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_clear_line(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_rows(at(tmp_path / name))
    assert "\n" not in str(error.value)


def test_text_in_another_encoding_is_named(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"problem": "q", "answer": "1"}\n{"problem": "\xe9", "answer": "1"}\n')
    with pytest.raises(UserError, match="not UTF-8 text after line"):
        read_rows(at(tmp_path / "latin.jsonl"))


def test_nothing_set_unknown_generator_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"data\.path is not set"):
        check_source(DataConfig(name="x"))
    with pytest.raises(UserError, match="generator=algebra is unknown; choose one of arithmetic"):
        check_source(DataConfig(name="x", generator="algebra"))
    check_source(DataConfig(name="x", generator="arithmetic", params={"count": 1}))
    with pytest.raises(UserError, match="empty folder"):
        check_source(at(tmp_path))


def test_the_early_check_looks_for_the_fields(tmp_path):
    (tmp_path / "no_answer.jsonl").write_text('{"problem": "q", "level": 1}\n')
    with pytest.raises(UserError, match=r"gold answer.*problem, level"):
        check_source(at(tmp_path / "no_answer.jsonl"))
    (tmp_path / "no_answer.csv").write_text("problem,level\nq,1\n")
    with pytest.raises(UserError, match=r"gold answer.*problem, level"):
        check_source(at(tmp_path / "no_answer.csv"))


def test_the_early_check_imports_nothing_heavy(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    code = (
        "import sys\n"
        "from r1zero.config import DataConfig\n"
        "from r1zero.data.sources import check_source\n"
        f"check_source(DataConfig(name='x', path={str(tmp_path / 'a.jsonl')!r}))\n"
        "heavy = {'torch', 'datasets', 'pandas', 'pyarrow', 'numpy', 'transformers', 'sympy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_of_bare_conversations_loads(tmp_path):
    """The 57k collection's file is an array of arrays; the hub's loader turns it into a table of columns 0 and 1."""
    chats = [
        [{"from": "human", "value": f"q{i}"}, {"from": "assistant", "ground_truth": {"value": str(i)}}]
        for i in range(3)
    ]
    (tmp_path / "set.json").write_text(json.dumps(chats))
    rows = [{"conversations": chat} for chat in chats]
    assert read_rows(at(tmp_path / "set.json")) == rows
    assert read_rows(at(tmp_path)) == rows


def test_files_of_another_kind_in_a_folder_are_named(tmp_path, caplog):
    """The library reads one kind; a list of the files themselves is none of them."""
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "b.csv").write_text("problem,answer\na?,1\n")
    assert read_rows(at(tmp_path)) == ROWS[:1]
    assert "not read, files of another kind: b.csv" in caplog.text


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UserError, match=r"pipe\.jsonl is neither a file nor a folder"):
        check_source(at(tmp_path / "pipe.jsonl"))


def test_a_folder_of_images_is_one_line(tmp_path):
    (tmp_path / "a.png").write_bytes(b"PNG")
    with pytest.raises(UserError, match=r"row 0 of the data set can't be read"):
        read_rows(at(tmp_path))


def test_a_filter_that_no_row_passes_is_told_before_anything_heavy(tmp_path):
    rows = [{"problem": f"{i}?", "answer": "1", "level": i // 100} for i in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check_source(at(tmp_path / "a.jsonl", where={"level": 1}))  # beyond the rows that are looked at for fields
    with pytest.raises(UserError, match=r"has no row with data\.where\.level in \['2'\]; it has: 0, 1"):
        check_source(at(tmp_path / "a.jsonl", where={"level": 2}))


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """A hub cache as a download leaves it, holding org/set at two revisions, and no connection."""
    repo = tmp_path / "hub" / "datasets--org--set"
    for revision, count in (("main", 5), ("v1", 2)):
        commit = (revision * 40)[:40]
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "train.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS[:count]))
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def test_a_downloaded_hub_set_loads_offline(offline_hub):
    assert read_rows(at("org/set")) == ROWS
    assert read_rows(at("org/set", revision="v1")) == ROWS[:2]
    with pytest.raises(UserError, match=r"can't be loaded \(split test\).*train"):
        read_rows(at("org/set", split="test"))


def test_a_hub_set_that_cant_be_reached_says_so(offline_hub):
    with pytest.raises(UserError, match="nor in the local hub cache, and the hub can't be reached") as error:
        read_rows(at("org/other"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="can't be reached"):
        read_rows(at("org/set", revision="v9"))


def test_a_hub_without_an_address_is_not_asked_again_and_again(monkeypatch, tmp_path):
    """The library's retries take 23 s a set; behind a proxy the name need not be known here."""
    import socket

    import huggingface_hub.constants

    def unknown(*args):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(hub, "_load", lambda *args, **keywords: pytest.fail("asked"))
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    hub.has_address.cache_clear()
    with pytest.raises(UserError, match="the hub can't be reached"):
        read_rows(at("org/other"))
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    hub.has_address.cache_clear()
    assert hub.has_address()
    hub.has_address.cache_clear()


def test_an_unknown_hub_set_and_a_scripted_one(monkeypatch):
    import datasets

    def missing(*args, **keywords):
        raise datasets.exceptions.DatasetNotFoundError("not there")

    monkeypatch.setattr(hub, "has_address", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(UserError, match=r"nor a data set on the hub \(or it is private or gated"):
        read_rows(at("org/none"))

    def scripted(*args, **keywords):
        raise RuntimeError("Dataset scripts are no longer supported, but found set.py")

    monkeypatch.setattr(datasets, "load_dataset", scripted)
    with pytest.raises(UserError, match="refs/convert/parquet"):
        read_rows(at("org/old"))
