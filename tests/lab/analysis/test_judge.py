"""The judge: strict reading, cache, concurrency, retries, cost, and a key that nobody sees."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from openai_stub import Stub
from r1zero.errors import UserError
from r1zero.lab.analysis.cache import Answer, AnswerCache
from r1zero.lab.analysis.config import JudgeConfig, JudgePromptConfig
from r1zero.lab.analysis.judge import Judge, Tally, label_pattern, parse_label, server_asker, shorten


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


PROMPTS = {
    "answering": JudgePromptConfig([0, 1], "You judge.", "Q {question} R {response}"),
    "reflection": JudgePromptConfig([0, 1, 2], "You judge.", "again: {question} / {response}"),
}
PAIRS = [(f"q{i}", f"r{i}") for i in range(8)]


def config(url: str = "http://unused", **settings) -> JudgeConfig:
    fields = dict(name="j", via="server", url=url, model="m", prompts=PROMPTS, retries=2, concurrency=3)
    return JudgeConfig(**(fields | settings))


def judge(stub: Stub, path: Path, **settings) -> Judge:
    cfg = config(stub.url, **settings)
    return Judge(cfg, AnswerCache(path), server_asker(cfg))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("It answers.\nLABEL: 1", 1),
        ("LABEL: 0\n\n  ", 0),
        ("LABEL: 0\nLABEL: 1", 1),
        ("LABEL: 2", None),  # not among the labels
        ("LABEL: 1.", None),
        ("LABEL: 1 because it answers", None),
        ("label: 1", None),
        ("**LABEL: 1**", None),
        ("The label is 1", None),
        ("LABEL: 1\nI hope this helps", None),
        ("LABEL: 11", None),
        ("", None),
    ],
)
def test_only_the_exact_last_line_counts(text, label):
    assert parse_label(text, [0, 1]) == label


def test_the_label_may_stand_in_the_first_line():
    assert parse_label("\nLABEL: 1\nbecause", [0, 1], "first") == 1
    assert parse_label("because\nLABEL: 1", [0, 1], "first") is None


@pytest.mark.parametrize("line", ["first", "last"])
def test_what_a_guided_judge_may_write_can_be_read(line, tmp_path):
    prompt = JudgePromptConfig([0, 1, 2], "You judge.", "{question} {response}", line)
    pattern = re.compile(label_pattern(prompt))
    for text in ("It looks back.\nLABEL: 2", "LABEL: 0\nIt rambles."):
        assert bool(pattern.fullmatch(text)) == (parse_label(text, [0, 1, 2], line) is not None)
    assert not pattern.fullmatch("a\nLABEL: 3")
    with Stub(lambda body: "LABEL: 1") as stub:
        extra = {"chat_template_kwargs": {"enable_thinking": False}}
        judge(stub, tmp_path / "c.jsonl", guided=True, extra=extra).label("answering", PAIRS[:1])
        assert stub.bodies[0]["structured_outputs"]["regex"] == label_pattern(PROMPTS["answering"])
        assert stub.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_judge_that_is_gone_is_not_waited_for_again(tmp_path):
    """30 questions to a judge that refuses every connection: the first 20 find out, the other 10 are not sent."""
    stub = Stub(lambda body: "LABEL: 1")
    stub.close()
    one = judge(stub, tmp_path / "c.jsonl", retries=0)
    assert one.label("answering", [(f"q{i}", "r") for i in range(30)]) == [None] * 30
    assert one.tally.failed == 30
    assert len(one.tally.reasons) == 20


def test_labels_come_in_order_and_unparsable_ones_are_counted(tmp_path):
    def reply(body):
        text = body["messages"][1]["content"]
        return "I cannot say" if "q3" in text else f"Because.\nLABEL: {int('q5' in text)}"

    with Stub(reply) as stub:
        one = judge(stub, tmp_path / "c.jsonl")
        assert one.label("answering", PAIRS) == [0, 0, 0, None, 0, 1, 0, 0]
        assert 1 <= stub.most_under_way <= 3
        assert [m["role"] for m in stub.bodies[0]["messages"]] == ["system", "user"]
        assert {b["temperature"] for b in stub.bodies} == {0.0}
    assert (one.tally.asked, one.tally.unparsable, one.tally.failed) == (8, 1, 0)
    assert one.tally.tokens_in == 80
    assert one.tally.cost(1.0, 2.0) == pytest.approx((80 + 2 * one.tally.tokens_out) / 1e6)
    assert one.tally.cost(None, 2.0) is None
    assert Tally(tokens_in=2_000_000, tokens_out=500_000).cost(0.15, 0.60) == pytest.approx(0.60)


def test_what_was_answered_is_never_asked_again(tmp_path):
    """An interrupted run: three answers came, then the judge was gone; the next run asks for the other five."""
    with Stub(lambda body: "LABEL: 1") as stub:
        first = judge(stub, tmp_path / "c.jsonl", concurrency=1)
        stub.fault = lambda number, body: None if number < 3 else 400
        assert first.label("answering", PAIRS) == [1, 1, 1, *[None] * 5]
        assert (first.tally.asked, first.tally.failed) == (3, 5)
        assert first.tally.reasons[0].startswith("status 400")
    with Stub(lambda body: "LABEL: 0") as stub:
        second = judge(stub, tmp_path / "c.jsonl")
        assert second.label("answering", PAIRS) == [1, 1, 1, 0, 0, 0, 0, 0]
        assert len(stub.bodies) == 5
        assert (second.tally.asked, second.tally.cached, second.tally.failed) == (5, 3, 0)
        second.label("answering", PAIRS)
        assert len(stub.bodies) == 5


def test_the_key_of_the_cache_is_what_is_asked(tmp_path):
    """Another task, response, prompt, judge or setting asks anew; another address of the same judge does not."""
    counts = []
    other = {"answering": JudgePromptConfig([0, 1], "Other.", "Q {question} R {response}")}
    changes = ({}, {"model": "n"}, {"max_tokens": 9}, {"temperature": 1.0}, {"concurrency": 1}, {"prompts": other})
    for changed in changes:
        with Stub(lambda body: "LABEL: 1") as stub:
            judge(stub, tmp_path / "c.jsonl", **changed).label("answering", PAIRS[:1])
            counts.append(len(stub.bodies))
    assert counts == [1, 1, 1, 1, 0, 1]
    with Stub(lambda body: "LABEL: 1") as stub:
        one = judge(stub, tmp_path / "c.jsonl")
        one.label("reflection", PAIRS[:1])
        one.label("answering", [("q0", "other")])
        assert len(stub.bodies) == 2


def test_equal_pairs_are_asked_once(tmp_path):
    with Stub(lambda body: "LABEL: 1") as stub:
        one = judge(stub, tmp_path / "c.jsonl")
        assert one.label("answering", [("q", "r")] * 20) == [1] * 20
        assert len(stub.bodies) == 1


def test_a_line_cut_off_by_a_kill_is_passed_over(tmp_path):
    path = tmp_path / "c.jsonl"
    cache = AnswerCache(path)
    cache.put("a", Answer("LABEL: 1", 3, 4))
    cache.put("b", Answer("LABEL: 0", 3, 4))
    path.write_bytes(path.read_bytes()[:-9])
    again = AnswerCache(path)
    assert again.get("a") == Answer("LABEL: 1", 3, 4)
    assert again.get("b") is None
    again.put("c", Answer("x\ny", 1, 1))
    assert AnswerCache(path).get("c") == Answer("x\ny", 1, 1)
    assert len(AnswerCache(path)) == 2
    other = ["5", "[]", "[" * 200, '{"key": "d"}', '{"key": 1, "text": "", "tokens_in": 1, "tokens_out": 1}',
        '{"key": "d", "text": null, "tokens_in": 1, "tokens_out": 1}', "\udcff"]  # fmt: skip
    with path.open("a", errors="surrogateescape") as file:
        file.write("\n".join([*other, ""]))
    again.put("e", Answer("two\u2028lines", 1, 1))
    assert AnswerCache(path).get("e") == Answer("two\u2028lines", 1, 1)
    assert len(AnswerCache(path)) == 3
    with pytest.raises(UserError, match=r"kept in .*, which can't be used \(Is a directory\)"):
        AnswerCache(tmp_path)
    with pytest.raises(UserError, match=r"kept in .*, which can't be used \(File exists\)"):
        AnswerCache(path / "below").put("a", Answer("", 1, 1))


def test_passing_faults_are_tried_again(tmp_path):
    with Stub(lambda body: "LABEL: 1") as stub:
        stub.fault = lambda number, body: (429, 500)[number] if number < 2 else None
        one = judge(stub, tmp_path / "c.jsonl", concurrency=1)
        assert one.label("answering", PAIRS[:2]) == [1, 1]
        assert len(stub.bodies) == 4


def test_braces_in_a_response_are_left_alone():
    one = Judge(config(), AnswerCache(Path("unused")), lambda *a: None)
    messages = one.messages("answering", "{response}", "{question} \\frac{1}{2} \\1")
    assert messages[1]["content"] == "Q {response} R {question} \\frac{1}{2} \\1"


def test_a_long_response_loses_its_middle():
    text = "a" * 60 + "b" * 60
    short = shorten(text, 40)
    assert short.startswith("a" * 20 + "\n")
    assert short.endswith("\n" + "b" * 20)
    assert "80 characters left out" in short
    assert shorten(text, 120) == text


def test_the_key_is_sent_and_never_shown_logged_or_stored(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    caplog.set_level(logging.DEBUG)
    with Stub(lambda body: "LABEL: 1") as stub:
        stub.fault = lambda number, body: 401 if number % 2 else None
        one = judge(stub, tmp_path / "c.jsonl", key_env="JUDGE_KEY")
        one.label("answering", PAIRS)
        assert stub.keys == {"Bearer sk-very-secret"}
    assert one.tally.failed == 4
    assert "refused the key of $JUDGE_KEY" in one.tally.reasons[0]
    printed = capsys.readouterr()
    everything = [(tmp_path / "c.jsonl").read_text(), caplog.text, printed.out, printed.err, *one.tally.reasons]
    assert all("sk-very-secret" not in text for text in everything)
