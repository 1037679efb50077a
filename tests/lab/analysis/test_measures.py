"""Figures of hand-made tables, and the excerpts page."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from r1zero.lab.analysis import excerpts, keywords, measures

NA = pd.NA


def table(rows: list[tuple]) -> pd.DataFrame:
    """(question, temperature, response, right, label of reflection)."""
    made = pd.DataFrame(rows, columns=["question", "temperature", "response", "right", "reflection"])
    made["reflection"] = made["reflection"].astype("Int64")
    made["sample"] = made.groupby(["question", "temperature"]).cumcount()
    made["status"] = ["right" if right else "wrong" for right in made["right"]]
    made["finish_reason"] = "stop"
    return made.assign(tokens=9, text=[f"text of {q}" for q in made["question"]])


ROWS = [
    (0, 1.0, "Let me recheck.", True, 2),
    (0, 1.0, "recheck the list", True, 1),
    (0, 1.0, "plain", False, NA),
    (0, 1.0, "plain", False, NA),
    (1, 1.0, "think again", False, 2),
    (1, 1.0, "Rethink! rethink", False, 2),
    (1, 1.0, "plain", True, NA),
    (1, 1.0, "check again", True, NA),  # the judge's answer was unparsable
    (2, 1.0, "plain", True, NA),
    (2, 1.0, "plain", True, NA),
]


@pytest.fixture
def judged() -> pd.DataFrame:
    return measures.add_reflection(measures.add_keywords(table(ROWS)), judged=True)


def test_keywords_are_crossed_with_the_judge(judged):
    assert judged["keyword"].tolist() == [True, True, False, False, True, True, False, True, False, False]
    assert judged["reflects"].tolist() == [True, False, False, False, True, True, False, NA, False, False]
    assert measures.cross_table(judged) == {
        "yes": {"1": 1, "2": 3, "none": 1},
        "no": {"1": 0, "2": 0, "none": 5},
    }


def test_without_a_judge_keywords_decide():
    plain = measures.add_reflection(measures.add_keywords(table(ROWS)), judged=False)
    assert plain["reflects"].tolist() == plain["keyword"].tolist()


def test_shares_per_response_and_per_question(judged):
    found = measures.reflection_figures(judged, 200, seed=0)
    assert found["keyword"]["per_response"]["value"] == pytest.approx((2 / 4 + 3 / 4 + 0) / 3)
    assert found["keyword"]["per_question"]["value"] == pytest.approx(2 / 3)
    # Question 1 has three responses whose reflection is known.
    assert found["both"]["per_response"]["value"] == pytest.approx((1 / 4 + 2 / 3 + 0) / 3)
    assert found["both"]["per_response"]["responses"] == 9
    assert found["both"]["per_question"]["value"] == pytest.approx(2 / 3)
    assert found["judge"]["per_response"]["responses"] == 4
    assert found["both"]["per_response"]["low"] <= found["both"]["per_response"]["value"]
    assert measures.mean_over_questions(judged[:0], "keyword", 10, 0) is None


def test_keyword_counts(judged):
    counts = measures.keyword_counts(judged)
    assert counts["recheck"] == {"occurrences": 2, "responses": 2, "right": 2}
    assert counts["rethink"] == {"occurrences": 2, "responses": 1, "right": 0}
    assert counts["reanalyze"] == {"occurrences": 0, "responses": 0, "right": 0}
    assert len(counts) == 15


def test_the_gain_compares_within_a_question(judged):
    """Question 0: 1 of 1 against 1 of 3; question 1: 0 of 2 against 1 of 1; question 2 has no reflection."""
    gains = measures.reflection_gain(judged)
    assert gains[["question", "with_reflection", "without"]].values.tolist() == [
        [1, 0.0, 1.0],
        [0, 1.0, pytest.approx(1 / 3)],
    ]
    assert gains["gain"].tolist() == pytest.approx([-1.0, 2 / 3])
    assert gains["responses"].tolist() == [3, 4]
    found = measures.gain_summary(gains, 100, seed=0)
    assert found["value"] == pytest.approx((2 / 3 - 1) / 2)
    assert found["median"] == pytest.approx((2 / 3 - 1) / 2)
    assert (found["questions"], found["above"], found["equal"], found["below"]) == (2, 1, 0, 1)


def test_the_gain_is_not_fooled_by_temperature():
    """Reflection is frequent where temperature is high and accuracy low; within a temperature it changes nothing."""
    rows = []
    for temperature, right, reflecting in ((0.1, True, 1), (1.0, False, 9)):
        rows += [(0, temperature, "recheck", right, 2)] * reflecting
        rows += [(0, temperature, "plain", right, NA)] * (10 - reflecting)
    made = measures.add_reflection(measures.add_keywords(table(rows)), judged=True)
    assert measures.reflection_gain(made)["gain"].tolist() == [0.0]
    pooled = made.groupby("reflects")["right"].mean()
    assert pooled[True] - pooled[False] == pytest.approx(-0.8)  # what pooling would report


def test_no_reflection_at_all_is_no_gain():
    made = measures.add_reflection(measures.add_keywords(table([(0, 1.0, "x", True, NA)])), judged=True)
    assert measures.reflection_gain(made).empty
    assert measures.gain_summary(measures.reflection_gain(made), 10, 0) is None


def test_the_page_marks_words_and_takes_nothing_as_html(tmp_path, judged):
    judged.loc[0, "response"] = "<script>alert(1)</script> & let me Recheck <b>this</b> " + "x" * 900
    judged.loc[0, "text"] = "is 1 < 2?"
    shown = excerpts.write_page(judged, "model <x>", 10, tmp_path / "e.html")
    page = (tmp_path / "e.html").read_text()
    assert shown == 6  # one of them again, as a false positive of its keyword
    assert "5 of 10 responses hold a keyword" in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; let me <mark>Recheck</mark> &lt;b&gt;" in page
    assert "is 1 &lt; 2?" in page
    assert "<title>model &lt;x&gt;" in page
    assert page.count("<details>") == 1  # only the long one is folded
    assert len(re.findall("<article>", page)) == 6
    assert "http" not in page  # nothing is loaded from elsewhere


def test_false_positives_of_both_ways_and_aha_cases_have_sections(judged):
    """Fig. 11: "recheck the list" has label 1; a response in other words has label 2."""
    judged.loc[8, "reflection"] = 2
    judged.loc[9, "response"] = "Aha! Wait, awaiting"
    found = excerpts.further(judged)
    assert {name: rows.index.tolist() for name, (_, rows, _) in found.items()} == {
        "Keyword alone": [1], "Judge alone": [8], "Aha": [9],
    }  # fmt: skip
    assert excerpts.marked("Aha! Wait, awaiting", keywords.AHA) == "<mark>Aha</mark>! <mark>Wait</mark>, awaiting"
    assert list(excerpts.further(judged.assign(reflection=NA))) == ["Aha"]
    assert measures.keyword_counts(judged).keys() == set(keywords.KEYWORDS)


def test_each_response_belongs_to_one_class():
    made = table([(q, 1.0, "x" * (q + 1), q == 0, NA) for q in range(5)]).assign(level=["1", "1", "2", "2", "2"])
    made["status"] = ["right", "wrong", "no_answer", "truncated", "timeout"]
    made.loc[3, "finish_reason"] = "length"
    assert measures.classes(made).tolist() == ["right", "wrong", "unformatted", "truncated", "wrong"]
    assert measures.outcomes_by_level(made) == {
        "1": {"right": 1, "wrong": 1, "unformatted": 0, "truncated": 0},
        "2": {"right": 0, "wrong": 1, "unformatted": 1, "truncated": 1},
    }
    assert measures.lengths_by_class(made)["wrong"] == {"responses": 2, "characters": 3.5, "tokens": 9.0}
    assert list(measures.outcomes_by_level(made.assign(level=""))) == ["all"]


def test_excerpts_prefer_what_the_judge_confirms_and_let_keywords_take_turns(judged):
    chosen = excerpts.choose(judged, 4)
    assert chosen["leader"].tolist() == ["check again", "recheck", "rethink", "think again"]
    assert chosen.set_index("leader").loc["recheck", "reflection"] == 2
    assert excerpts.choose(judged[judged["question"] == 2], 4).empty
