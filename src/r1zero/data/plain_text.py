"""Tokenizes text as text: the names of special tokens in a question never become control tokens."""

from __future__ import annotations

import json
import re
from typing import Any

FIRST = 0xF0000
"""Where the stand-ins for special tokens begin: a private plane of Unicode, in which no text is written."""


def special_texts(tokenizer: Any) -> list[str]:
    """Texts that the tokenizer turns into one token wherever they stand, the longest first."""
    made: tuple[int, list[str]] = getattr(tokenizer, "_r1zero_special", (0, []))
    size = len(tokenizer)
    if made[0] != size:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        made = size, sorted((str(token) for token in added.values() if str(token)), key=len, reverse=True)
        tokenizer._r1zero_special = made  # thousands of questions ask, and transformers makes the list anew each time
    return made[1]


def holds_special(text: str, tokenizer: Any) -> bool:
    """Whether a text holds the name of a special token."""
    return any(special in text for special in special_texts(tokenizer))


def encode_between(before: str, text: str, after: str, tokenizer: Any) -> list[int]:
    """Token ids of the three together, where only ``before`` and ``after`` may hold control tokens.

    A copy of the tokenizer has its special tokens under other names, those are put into ``before`` and ``after``,
    and the whole is tokenized at once: merges across the seams and blanks are as they always are.

    Raises:
        ValueError: the tokenizer is not one of the ``tokenizers`` library, so it can't be copied, or the text
            still holds a special token.
    """
    names = special_texts(tokenizer)
    stand_in = {name: chr(FIRST + number) for number, name in enumerate(names)}
    pattern = re.compile("|".join(map(re.escape, names)))
    backend = _renamed(tokenizer, stand_in)

    def put(part: str) -> str:
        return pattern.sub(lambda found: stand_in[found[0]], part)

    return list(backend.encode(put(before) + text + put(after), add_special_tokens=False).ids)


def _renamed(tokenizer: Any, names: dict[str, str]) -> Any:
    """The tokenizer's fast backend with its added tokens under other names; made once."""
    made = getattr(tokenizer, "_r1zero_renamed", None)
    if made is not None and made[0] == names:
        return made[1]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("this tokenizer has no fast version, so its special tokens can't be told from text")
    from tokenizers import Tokenizer

    content = json.loads(backend.to_str())
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = content["model"]
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocab.items()}
    elif isinstance(vocab, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    content["post_processor"] = content["truncation"] = content["padding"] = None
    renamed = Tokenizer.from_str(json.dumps(content))
    for name, other in names.items():
        if renamed.token_to_id(other) != backend.token_to_id(name):
            raise ValueError(f"the special token {name} of this tokenizer can't be told from text")
    tokenizer._r1zero_renamed = (names, renamed)
    return renamed
