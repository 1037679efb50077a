"""The 15 keywords, as whole words on lower-cased text."""

from __future__ import annotations

import pytest

from r1zero.lab.analysis import keywords

PAPER = """recheck, rethink, reassess, reevaluate, re-evaluate, reevaluation, re-examine, reexamine, reconsider,
reanalyze, double-check, check again, think again, verify again, go over the steps"""


def found(text: str) -> list[str]:
    return [word for _, _, word in keywords.spans(text)]


def test_the_list_is_the_papers():
    assert list(keywords.KEYWORDS) == [word.strip() for word in PAPER.split(",")]
    assert len(keywords.KEYWORDS) == 15


@pytest.mark.parametrize("word", keywords.KEYWORDS)
def test_every_keyword_is_found_whatever_its_case(word):
    assert found(f"Wait. Let me {word.upper()}, then go on.") == [word]
    assert found(word) == [word]


@pytest.mark.parametrize(
    "text",
    ["I rechecked it", "a reconsideration", "unrethink", "double-checked", "we reassessed", "think against", "recheck2",
     "check it again", "rethink_x"],
)  # fmt: skip
def test_parts_of_words_do_not_count(text):
    """Substring matching would count every one of these."""
    assert found(text) == []


def test_the_longest_spelling_is_one_hit():
    assert found("a reevaluation, then re-evaluate and reevaluate") == ["reevaluation", "re-evaluate", "reevaluate"]


def test_phrases_may_be_broken_over_lines():
    assert found("Let's check\n  again and GO over\tthe steps.") == ["check again", "go over the steps"]


def test_spans_point_into_the_original_text():
    """Some letters have lower cases of two characters; what follows them must not shift."""
    text = "\u0130\u0130\u0130 Recheck and check AGAIN"
    assert [text[a:b] for a, b, _ in keywords.spans(text)] == ["Recheck", "check AGAIN"]


def test_counts():
    assert keywords.count("recheck, recheck; think again") == {"recheck": 2, "think again": 1}
