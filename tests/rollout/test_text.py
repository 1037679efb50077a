"""Text from ids, the same for every engine, and requests that none can serve."""

from __future__ import annotations

import pytest

from r1zero.errors import UserError
from r1zero.rollout.engine import Sampling
from r1zero.rollout.text import check_request, cut_at_stop, response_texts
from tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id


def text_of(ids: list[int], reason: str = "stop", **settings: object) -> str:
    return response_texts(TOKENIZER, [ids], [reason], Sampling(**settings))[0]  # type: ignore[arg-type]


def test_eos_leaves_no_text() -> None:
    ids = [*TOKENIZER.encode("2 + 2 = 4"), EOS]
    assert text_of(ids, stop_ids=(EOS,)) == "2 + 2 = 4"


def test_stop_id_that_is_ordinary_text_is_left_out() -> None:
    """An EOS id of the model need not be special to its tokenizer."""
    ids = TOKENIZER.encode("ab")
    assert len(ids) == 2
    assert text_of(ids, stop_ids=(ids[-1],)) == "a"
    assert text_of(ids, "length", stop_ids=(ids[-1],)) == "ab"


def test_special_tokens_inside_leave_no_text() -> None:
    inside = TOKENIZER.convert_tokens_to_ids("<|im_start|>")
    assert text_of([*TOKENIZER.encode("a"), inside, *TOKENIZER.encode("b")], "length") == "ab"


def test_answer_tag_is_kept_and_what_follows_it_is_not() -> None:
    """Trap 26: the last token may carry text beyond the stop string."""
    ids = TOKENIZER.encode("<answer> 4 </answer>.\n")
    assert text_of(ids, stop=("</answer>",), keep_stop=True) == "<answer> 4 </answer>"
    assert text_of(ids, stop=("</answer>",), keep_stop=False) == "<answer> 4 "


def test_earliest_stop_string_counts() -> None:
    sampling = Sampling(stop=("zz", "b", "a"), keep_stop=True)
    assert cut_at_stop("xxbxazz", sampling) == "xxb"
    assert cut_at_stop("none", Sampling(stop=("q",))) == "none"


def test_truncated_text_is_whole() -> None:
    assert text_of(TOKENIZER.encode("5 + 6"), "length", stop=("</answer>",)) == "5 + 6"


def test_unknown_ids_decode_to_nothing() -> None:
    """Trap 28."""
    assert text_of([len(TOKENIZER) + 5, *TOKENIZER.encode("7"), 10**6], "length") == "7"
    assert text_of([10**6], "length") == ""


def test_spaces_before_punctuation_stay() -> None:
    """Trap 24: decoding tidies nothing, ``\\boxed{ 1 , 2 }`` stays as it was sampled."""
    assert text_of(TOKENIZER.encode("1 , 2 . it 's"), "length") == "1 , 2 . it 's"


def test_request_is_checked_in_one_line() -> None:
    check_request([[1, 2, 3]], Sampling(max_tokens=5), context=8)
    with pytest.raises(UserError, match="prompt 1 has 4 tokens and the response limit is 5: together over"):
        check_request([[1, 2, 3], [1, 2, 3, 4]], Sampling(max_tokens=5), context=8)
