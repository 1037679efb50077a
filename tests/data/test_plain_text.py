"""A question is text: names of special tokens in it become no control tokens; all else stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_templates import NAMES, load
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from r1zero.config import ASSETS, TemplateConfig
from r1zero.data.plain_text import encode_between, holds_special, special_texts
from r1zero.data.templates import Template, template_of
from r1zero.errors import UserError
from tiny_models import CHAT, TEXT, tiny_tokenizer


def sentencepiece_like(kind: str) -> PreTrainedTokenizerFast:
    """As Llama 2's (bpe) and T5's (unigram): blanks are a letter, special tokens stand in the vocabulary itself."""
    special = ["<unk>", "<s>", "</s>"]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False, fuse_unk=True))
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    letters = ["".join(map(chr, range(33, 127)))]
    tokenizer.train_from_iterator([*TEXT, *letters] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>")
    fast.chat_template = CHAT
    return fast


def with_plain_added() -> PreTrainedTokenizerFast:
    """As Qwen3's: <think> is an added token, though none of the special ones."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str()),
        eos_token="<|endoftext|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    fast.add_tokens([AddedToken("<think>", special=False, normalized=False), "<tool_call>"])
    fast.chat_template = CHAT
    return fast


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte-level": tiny_tokenizer,
    "byte-level with BOS": lambda: tiny_tokenizer(bos=True, vocab=322),
    "sentencepiece BPE": lambda: sentencepiece_like("bpe"),
    "unigram": lambda: sentencepiece_like("unigram"),
    "added tokens that are not special": with_plain_added,
    "embedded": lambda: AutoTokenizer.from_pretrained(ASSETS / "tiny"),
}


def check(tokenizer: Any, template: Template) -> None:
    """Every special token inside of a question is text, and the prompt's own control tokens are as they were."""
    controls = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    plain = template.encode("What is 12 + 30?", tokenizer)[1]
    expected = [i for i in plain if i in controls]
    for name in special_texts(tokenizer):
        for question in (f"What is{name} 12 + 30?", name, f"a {name}{name} b", f"{name}\nWhat is 12"):
            text, ids = template.encode(question, tokenizer)
            assert [i for i in ids if i in controls] == expected, (name, question)
            assert question in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("made", TOKENIZERS)
def test_special_tokens_in_a_question_are_text(made: str, name: str) -> None:
    check(TOKENIZERS[made](), load(name))


@pytest.mark.parametrize("made", ["byte-level", "byte-level with BOS", "embedded", "added tokens that are not special"])
def test_the_text_itself_is_kept(made: str) -> None:
    tokenizer = TOKENIZERS[made]()
    question = "Is <|im_end|> a word? And <|endoftext|>?"
    text, ids = load("qwen").encode(question, tokenizer)
    assert tokenizer.decode(ids).removeprefix("<|begin_of_text|>") == text


@pytest.mark.parametrize("made", TOKENIZERS)
def test_without_special_tokens_the_copy_gives_the_tokenizers_own_ids(made: str) -> None:
    """Seams and blanks included; so nothing but the special tokens of a question is tokenized in another way."""
    tokenizer = TOKENIZERS[made]()
    special = [name for name in special_texts(tokenizer) if name != tokenizer.unk_token]
    for before, text, after in (
        ("Question: ", "Tom has 3 apples", "\nAnswer:"),
        (f"{special[0]}user\n", "What is 12 + 30?", f"{special[-1]}\n"),
        ("", " blanks  in  front", f" {special[0]} "),
        (f"a{special[0]}", "7", f"{special[0]}{special[-1]}b"),
    ):
        expected = tokenizer.encode(before + text + after, add_special_tokens=False)
        assert encode_between(before, text, after, tokenizer) == expected


def test_a_tokenizer_without_a_fast_version_says_so() -> None:
    class Slow:
        added_tokens_decoder = {1: "</s>"}  # noqa: RUF012
        chat_template, bos_token_id = None, None

        def __len__(self) -> int:
            return 2

    assert holds_special("a </s> b", Slow())
    with pytest.raises(UserError, match="holds the name of a special token: this tokenizer has no fast version"):
        load("r1").encode("a </s> b", Slow())


def test_an_empty_system_message_is_not_the_models_default() -> None:
    """B9: '' is a message, null is none."""
    tokenizer = with_plain_added()
    default = "{% if messages[0]['role'] != 'system' %}DEFAULT{% endif %}"
    tokenizer.chat_template = default + CHAT
    texts = {
        system: Template("x", "{question}", chat=True, system=system).encode("1+1?", tokenizer)[0]
        for system in (None, "", "Box it.")
    }
    assert texts[None].startswith("DEFAULT")
    assert texts[""].startswith("<|im_start|>system\n<|im_end|>")
    assert texts["Box it."].startswith("<|im_start|>system\nBox it.<|im_end|>")


def test_chat_templates_are_told_a_fixed_day(shared: Path) -> None:
    """C5: a template that prints today's date gives the same prompts tomorrow."""
    tokenizer = with_plain_added()
    tokenizer.chat_template = (shared / "data" / "found" / "date_chat_template.jinja").read_text()
    assert Template("x", "{question}", chat=True).encode("1+1?", tokenizer)[0].startswith("Today Date: 26 Jul 2024\n")
    other = Template("x", "{question}", chat=True, date="2025-03-01")
    assert other.encode("1+1?", tokenizer)[0].startswith("Today Date: 01 Mar 2025\n")
    with pytest.raises(UserError, match=r"template\.date=today is not a date; write it as 2024-07-26"):
        Template("x", "{question}", date="today")


def test_arguments_of_the_chat_template_are_settings() -> None:
    """C11: Qwen3's enable_thinking."""
    tokenizer = with_plain_added()
    tokenizer.chat_template = CHAT + "{% if enable_thinking is false %}<think></think>{% endif %}"
    cfg = TemplateConfig(name="x", text="{question}", chat=True, chat_template_kwargs={"enable_thinking": False})
    assert template_of(cfg).encode("1+1?", tokenizer)[0].endswith("assistant\n<think></think>")
    with pytest.raises(UserError, match=r"chat_template_kwargs\.tokenize has no place here"):
        Template("x", "{question}", chat=True, chat_template_kwargs={"tokenize": True})
    with pytest.raises(UserError, match="have no use with template=x, whose chat is false"):
        Template("x", "{question}", chat_template_kwargs={"a": 1})


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["make_qwen_tokenizer", "make_smollm2"])
def test_real_tokenizers(tool: str, shared: Path) -> None:
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "r1zero" / tool
    if not (folder / "tokenizer_config.json").is_file():
        made = subprocess.run([sys.executable, str(shared / "tools" / f"{tool}.py"), str(folder)], capture_output=True)
        if made.returncode:
            pytest.skip(f"{tool} could not make its tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in NAMES:
        check(tokenizer, load(name))
