"""Prompt templates: a template owns its text, its stop rules and how the answer is found (trap 26)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from r1zero.errors import UserError

EXTRACTORS = ("boxed", "answer_tag")


@dataclass(frozen=True)
class Template:
    r"""One YAML of ``conf/template``.

    ``text`` holds ``{question}`` once. With ``chat`` the text becomes the user message of the
    tokenizer's own chat template, ``system`` its system message. ``stop`` strings end a response and
    stay in it when ``keep_stop``; ``stop_tokens`` are special tokens that end it besides the model's
    own EOS ids (those the vocabulary lacks are ignored). ``extractor`` names how the final answer is
    found: the last balanced ``\boxed{}`` or the last ``<answer>`` block.
    """

    name: str
    text: str
    stop: tuple[str, ...] = ()
    keep_stop: bool = True
    stop_tokens: tuple[str, ...] = ()
    extractor: str = "boxed"
    chat: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        if self.text.count("{question}") != 1:
            raise UserError(f"template.text of '{self.name}' must hold {{question}} exactly once")
        if self.extractor not in EXTRACTORS:
            raise UserError(f"template.extractor={self.extractor} is unknown; choose one of {', '.join(EXTRACTORS)}")

    def render(self, question: str) -> str:
        """Put the question into the text. Braces in the question are left alone."""
        return self.text.replace("{question}", question)

    def encode(self, question: str, tokenizer: Any) -> tuple[str, list[int]]:
        """Render and tokenise once: (prompt text, token ids).

        Exactly one BOS stands in front where the tokenizer puts one by itself (Llama), none otherwise
        (Qwen); a BOS that the chat template wrote is not doubled (trap 25).
        """
        text = self.render(question)
        if self.chat:
            if not getattr(tokenizer, "chat_template", None):
                raise UserError(f"template={self.name} needs a tokenizer with a chat template, and this model has none")
            messages = [{"role": "system", "content": self.system}] if self.system else []
            messages.append({"role": "user", "content": text})
            try:  # a template is a program that comes with the model; transformers runs it in jinja's sandbox
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except Exception as error:
                why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise UserError(
                    f"the chat template of this model can't be used ({why}); choose another template"
                ) from error
        ids = list(tokenizer.encode(text, add_special_tokens=False))
        bos = tokenizer.bos_token_id
        if bos is not None and adds_bos(tokenizer) and ids[:1] != [bos]:
            ids.insert(0, bos)
        return text, ids

    def stop_ids(self, tokenizer: Any, model_eos: tuple[int, ...] = ()) -> tuple[int, ...]:
        """All token ids that end a response: the model's, the tokenizer's and the template's (trap 16)."""
        ids = set(model_eos)
        if tokenizer.eos_token_id is not None:
            ids.add(int(tokenizer.eos_token_id))
        vocab = tokenizer.get_vocab()
        ids.update(vocab[token] for token in self.stop_tokens if token in vocab)
        return tuple(sorted(ids))


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS in front of plain text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer.encode("a", add_special_tokens=True))[:1] == [bos]
