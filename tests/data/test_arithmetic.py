"""Questions from a seed: determinism, disjoint splits, right answers, one-line errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1zero.data.arithmetic import Arithmetic, Sum, generate, held_out
from r1zero.errors import UserError


def test_equal_seeds_give_equal_questions_and_others_do_not() -> None:
    first = generate("train", 200, 3)
    assert first == generate("train", 200, 3)
    assert [q.text for q in first] != [q.text for q in generate("train", 200, 4)]
    assert first[:50] == generate("train", 50, 3)
    assert len({q.text for q in first}) == 200


def test_no_seed_mixes_the_splits() -> None:
    train = {q.text for seed in range(6) for q in generate("train", 3000, seed)}
    heldout = {q.text for seed in range(6) for q in generate("heldout", 1500, seed)}
    assert len(train) > 8000
    assert len(heldout) > 2000
    assert not train & heldout


def test_the_same_sum_in_words_stays_in_its_split() -> None:
    symbols = {q.text for q in generate("heldout", 500, 1)}
    words = generate("heldout", 500, 1, style="words")
    assert words[0].text.startswith("Start with ")
    for question in words:
        numbers = [int(n) for n in re.findall(r"\d+", question.text)]
        ops = re.findall(r"add|take away", question.text)
        text = str(numbers[0]) + "".join(
            ("+" if op == "add" else "-") + str(n) for op, n in zip(ops, numbers[1:], strict=True)
        )
        assert f"{text}=?" in symbols
        assert held_out(text, 10)


def test_both_styles_share_the_questions_of_one() -> None:
    """The same sums as in symbols, about half of them in words, whatever the seed and the split."""
    kinds = {style: generate("train", 300, 0, style=style) for style in ("symbols", "words", "both")}
    symbols, words, both = ([q.text for q in kinds[style]] for style in ("symbols", "words", "both"))
    assert [q.gold for q in kinds["both"]] == [q.gold for q in kinds["symbols"]]
    assert all(text in (s, w) for text, s, w in zip(both, symbols, words, strict=True))
    assert 110 < sum(text.startswith("Start with") for text in both) < 190
    other = {q.text for q in generate("train", 300, 1, style="both")}
    assert not other & (set(symbols) | set(words)) - set(both)  # a sum has one style for all seeds


def test_a_tenth_is_held_out() -> None:
    sums = [f"{a}+{b}-{c}+{d}" for a in range(1, 10) for b in range(1, 10) for c in range(1, 10) for d in range(1, 10)]
    share = sum(held_out(text, 10) for text in sums) / len(sums)
    assert share == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"terms": (3, 7), "digits": 2},
        {"terms": 5, "operators": "+-*"},
        {"operators": "*", "style": "words"},
        {"operators": "-", "negative": True},
    ],
)
def test_gold_answers_are_python_s_own(params: dict[str, Any]) -> None:
    for question in generate("heldout", 60, 0, **{**params, "style": "symbols"}):
        expression = question.text.removesuffix("=?")
        assert question.gold == (str(eval(expression)),)
        if not params.get("negative"):
            assert int(question.gold[0]) >= 0


def test_shape_follows_the_settings() -> None:
    for question in generate("train", 100, 0, terms=(3, 6), digits=2):
        numbers = re.findall(r"\d+", question.text)
        assert 3 <= len(numbers) <= 6
        assert len(numbers) == question.meta["level"]
        assert all(1 <= int(n) <= 99 for n in numbers)
    assert {len(re.findall(r"\d+", q.text)) for q in generate("train", 200, 0, terms=[3, 6])} == {3, 4, 5, 6}


def test_products_bind_first_in_the_working() -> None:
    assert Sum((3, 2, 4, 5), ("+", "*", "-")).steps() == [(2, "*", 4, 8), (3, "+", 8, 11), (11, "-", 5, 6)]
    assert Sum((3, 6, 2, 5), ("+", "-", "-")).steps() == [(3, "+", 6, 9), (9, "-", 2, 7), (7, "-", 5, 2)]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**40), count=st.integers(1, 30))
def test_any_seed_keeps_questions_in_their_split(seed: int, count: int) -> None:
    for split in ("train", "heldout"):
        for question in generate(split, count, seed):
            assert held_out(question.text.removesuffix("=?"), 10) == (split == "heldout")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"split": "test"}, "split=test"),
        ({"count": 50_000}, "about 2"),
        ({"terms": 1}, "terms=1"),
        ({"digits": 0}, "digits=0"),
        ({"operators": "+/"}, "operators"),
        ({"style": "prose"}, "style=prose"),
        ({"style": "words", "operators": "+*"}, "left to right"),
        ({"heldout_percent": 0}, "heldout_percent=0"),
        ({"tems": 3}, "'tems'"),
    ],
)
def test_wrong_settings_are_one_line(call: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as error:
        generate(**{"split": "train", "count": 10, "seed": 0, **call})
    assert "\n" not in str(error.value)


def test_terms_may_be_a_pair_of_the_dataclass() -> None:
    assert Arithmetic(terms=(3, 5)).term_range == (3, 5)
    assert Arithmetic(terms=4).term_range == (4, 4)
