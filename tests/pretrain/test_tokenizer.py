"""The small tokenizer: special ids, single digits, prompts and responses that join without a seam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from r1zero.data.arithmetic import Arithmetic
from r1zero.data.templates import Template
from r1zero.errors import UserError
from r1zero.pretrain.config import WorkingConfig
from r1zero.pretrain.text import ArithmeticText
from r1zero.pretrain.tokenizer import train_tokenizer

CONF = Path(__file__).resolve().parents[2] / "conf"
TEXT = ArithmeticText(
    {"question": 0.6, "none": 0.1, "qwen": 0.1, "speaker": 0.2}, WorkingConfig(), Arithmetic(), "train", 0
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer((TEXT.document(number) for number in range(1500)), 384, 1024)


def test_special_tokens_are_whole_and_first(tokenizer: Any) -> None:
    markers = "<|endoftext|><|im_start|><|im_end|><|pad|>"
    assert tokenizer.encode(markers, add_special_tokens=False) == [0, 1, 2, 3]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (0, 3, None)
    assert len(tokenizer) == 384
    # No merge is spent on their letters.
    assert not any("im_" in token or "endof" in token for token, at in tokenizer.get_vocab().items() if at > 3)


def test_digits_are_single_and_any_text_survives(tokenizer: Any) -> None:
    assert tokenizer.tokenize("120") == ["1", "2", "0"]
    assert not any(sum(c.isdigit() for c in token) > 1 for token in tokenizer.get_vocab())
    for text in ["Ünïcode ∑ 漢字 \t\n\n  x", "3+6-2-5=?\nAnswer:", *(TEXT.document(n) for n in range(50))]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_training_is_deterministic(tokenizer: Any) -> None:
    again = train_tokenizer((TEXT.document(number) for number in range(1500)), 384, 1024)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("name", ["question", "none", "qwen", "r1"])
def test_prompt_and_response_join_without_a_seam(tokenizer: Any, name: str) -> None:
    """Ids of prompt + response equal those of the whole text: RL starts from what pretraining saw (trap 24)."""
    fields = yaml.safe_load((CONF / "template" / f"{name}.yaml").read_text())
    template = Template(name, fields["text"])
    text, ids = template.encode("3+6-2-5=?", tokenizer)
    for response in [" 3+6=9. 9-2=7. 7-5=2. So \\boxed{2}", " 3+6=? Hmm, wait. So \\boxed{11}"]:
        assert ids + tokenizer.encode(response, add_special_tokens=False) == tokenizer.encode(
            text + response, add_special_tokens=False
        )


def test_chat_template_is_chatml(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "1+1=?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n1+1=?<|im_end|>\n<|im_start|>assistant\n"


def test_impossible_vocabularies_are_refused() -> None:
    with pytest.raises(UserError, match=r"init\.vocab=259 must be at least 260"):
        train_tokenizer(["a"], 259, 64)
    with pytest.raises(UserError, match="merges for"):
        train_tokenizer(["aaaa"], 300, 64)
