"""Conversations in a row: lists of messages, messages in columns, messages as JSON text, content in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1zero.launch.files import parse_json

ASKING, ANSWERING = ("user", "human"), ("assistant", "gpt")
IGNORED = ("system", "developer")
"""Roles whose text the template owns; it is not asked."""

Chat = Sequence[Mapping[str, Any]]


def as_chat(value: Any) -> Chat | None:
    """The messages of a value, None where it is not a conversation.

    A conversation is a list of records with role and content (or from and value); the same in columns,
    ``{role: [...], content: [...]}``; or either of these as JSON text.
    """
    if isinstance(value, str):
        if not value.lstrip().startswith(("[{", '{"role', '{"content', '{"from')):
            return None
        try:
            value = parse_json(value)
        except ValueError:
            return None
        return None if isinstance(value, str) else as_chat(value)
    if isinstance(value, Mapping):
        names = next((pair for pair in (("role", "content"), ("from", "value")) if set(pair) <= set(value)), None)
        if names is None or not all(_is_list(value[name]) for name in names):
            return None
        columns = [name for name, items in value.items() if _is_list(items)]
        if len({len(value[name]) for name in columns}) != 1:
            return None
        return [dict(zip(columns, row, strict=True)) for row in zip(*(value[name] for name in columns), strict=True)]
    if _is_list(value) and value and all(_is_message(message) for message in value):
        return value
    return None


def question_in(chat: Chat) -> str:
    """The one message of the user. Raises ``ValueError`` for several turns, tools and content other than text."""
    known = (*ASKING, *ANSWERING, *IGNORED)
    if strange := next((role for message in chat if (role := role_of(message)) not in known), None):
        raise ValueError(f"a conversation with a message of '{strange}', where one question is expected")
    asked = [message for message in chat if role_of(message) in ASKING]
    if len(asked) != 1:
        raise ValueError(f"a conversation with {len(asked)} messages of the user, where one question is expected")
    return text_of(asked[0])


def answer_in(chat: Chat) -> Any:
    """A ground truth recorded with the assistant's last message, else the text of that message; None without one."""
    replies = [message for message in chat if role_of(message) in ANSWERING]
    if not replies:
        return None
    truth = replies[-1].get("ground_truth")
    if truth is not None:
        return truth.get("value") if isinstance(truth, Mapping) else truth
    return text_of(replies[-1])


def said_last(value: Any) -> str | None:
    """What the assistant says last in a conversation, None where the value is none or nothing is said."""
    chat = as_chat(value)
    replies = [message for message in chat if role_of(message) in ANSWERING] if chat is not None else []
    return text_of(replies[-1]).strip() or None if replies else None


def role_of(message: Mapping[str, Any]) -> str:
    """Who speaks."""
    return str(message.get("role") or message.get("from"))


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message; parts of text are joined.

    Raises:
        ValueError: a part is not text (an image, say) and would be dropped silently.
    """
    content = message.get("content", message.get("value"))
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if _is_list(content) else [content]
    texts = []
    for part in parts:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            kind = part.get("type", "no text") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"a message holds a part that is not text ({kind})")
        texts.append(text)
    return "".join(texts)


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and ("role" in message or "from" in message)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
