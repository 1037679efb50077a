"""Prompt templates: a template owns its text, its stop rules and how the answer is found (trap 26)."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from r1zero.config import TemplateConfig
from r1zero.data.plain_text import encode_between, holds_special
from r1zero.errors import UserError

EXTRACTORS = ("boxed", "answer_tag")

OURS = {
    "conversation", "messages", "tokenize", "add_generation_prompt", "chat_template", "return_dict", "return_tensors",
    "continue_final_message", "padding", "truncation", "max_length", "strftime_now",
}  # fmt: skip
"""Arguments of ``apply_chat_template`` that a setting must not change."""

MARK = "\U000ffffd"
"""Stands for the question while its place in a prompt is looked for; no text holds it."""


@dataclass(frozen=True)
class Template:
    r"""One YAML of ``conf/template``.

    ``text`` holds ``{question}`` once. With ``chat`` the text becomes the user message of the
    tokenizer's own chat template, ``system`` its system message ("" is an empty one, None the model's own
    default), ``chat_template_kwargs`` its further arguments; it gets ``date`` as today's. ``stop``
    strings end a response and stay in it when ``keep_stop``; ``stop_tokens`` are special tokens that end it
    besides the model's own EOS ids (those the vocabulary lacks are ignored). ``extractor`` names how the
    final answer is found: the last balanced ``\boxed{}`` the last ``<answer>`` block, or what a function of yours
    finds, named by its import path.
    """

    name: str
    text: str
    stop: tuple[str, ...] = ()
    keep_stop: bool = True
    stop_tokens: tuple[str, ...] = ()
    extractor: str = "boxed"
    chat: bool = False
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str = TemplateConfig.date

    def __post_init__(self) -> None:
        if self.text.count("{question}") != 1:
            raise UserError(f"template.text of '{self.name}' must hold {{question}} exactly once")
        if self.extractor not in EXTRACTORS and "." not in self.extractor:  # whether it is there, the grader sees
            raise UserError(
                f"template.extractor={self.extractor} is unknown; choose one of {', '.join(EXTRACTORS)}, or the import "
                "path of a function of yours"
            )
        self._today()
        if taken := sorted(set(self.chat_template_kwargs) & OURS):
            raise UserError(f"template.chat_template_kwargs.{taken[0]} has no place here: the run sets it itself")
        if self.chat_template_kwargs and not self.chat:
            raise UserError(f"template.chat_template_kwargs have no use with template={self.name}, whose chat is false")

    def render(self, question: str) -> str:
        """Put the question into the text. Braces in the question are left alone."""
        return self.text.replace("{question}", question)

    def encode(self, question: str, tokenizer: Any) -> tuple[str, list[int]]:
        """Render and tokenise once: (prompt text, token ids).

        Exactly one BOS comes first where the tokenizer puts one by itself (Llama), none otherwise
        (Qwen); a BOS that the chat template wrote is not doubled (trap 25).
        """
        text = self._chat(question, tokenizer) if self.chat else self.render(question)
        if holds_special(question, tokenizer):
            before, after = self._around(question, text, tokenizer)
            try:
                ids = encode_between(before, question, after, tokenizer)
            except ValueError as error:
                raise UserError(f"the question {question[:60]!r} holds the name of a special token: {error}") from error
        else:
            ids = list(tokenizer.encode(text, add_special_tokens=False))
        bos = tokenizer.bos_token_id
        if bos is not None and adds_bos(tokenizer) and ids[:1] != [bos]:
            ids.insert(0, bos)
        return text, ids

    def _around(self, question: str, text: str, tokenizer: Any) -> tuple[str, str]:
        """What comes before and after the question in a prompt; a mark in its place shows where it is."""
        marked = self._chat(MARK, tokenizer) if self.chat else self.render(MARK)
        before, mark, after = marked.partition(MARK)
        if not mark or before + question + after != text:
            raise UserError(
                f"the chat template of this model changes the question {question[:60]!r}, which holds the name of a "
                "special token; choose another template"
            )
        return before, after

    def _chat(self, question: str, tokenizer: Any) -> str:
        """The whole prompt as the tokenizer's chat template writes it."""
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"template={self.name} needs a tokenizer with a chat template, and this model has none")
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": self.render(question)})
        settings = {"strftime_now": self._today().strftime, **self.chat_template_kwargs}
        try:  # a template is a program that comes with the model; transformers runs it in jinja's sandbox
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **settings))
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"the chat template of this model can't be used ({why}); choose another template"
            ) from error

    def _today(self) -> datetime.date:
        """The date that chat templates get; raises ``UserError`` for a text that is not one."""
        try:
            return datetime.date.fromisoformat(self.date)
        except ValueError:
            raise UserError(f"template.date={self.date} is not a date; write it as 2024-07-26") from None

    def stop_ids(self, tokenizer: Any, model_eos: tuple[int, ...] = ()) -> tuple[int, ...]:
        """All token ids that end a response: the model's, the tokenizer's and the template's (trap 16)."""
        ids = set(model_eos)
        if tokenizer.eos_token_id is not None:
            ids.add(int(tokenizer.eos_token_id))
        vocab = tokenizer.get_vocab()
        ids.update(vocab[token] for token in self.stop_tokens if token in vocab)
        return tuple(sorted(ids))


def template_of(cfg: TemplateConfig) -> Template:
    """The template that a config describes."""
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(cfg).items()}
    return Template(**settings)


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS in front of plain text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer.encode("a", add_special_tokens=True))[:1] == [bos]
