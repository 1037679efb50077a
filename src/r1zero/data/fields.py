"""Which fields of a row hold the question and the gold answer, and what their values mean.

Imports nothing heavy: ``check_source`` runs before torch is loaded. The shapes handled here are those
that public question sets really have: plain columns, GSM8K's ``####``, worked solutions that end in a
box, SVAMP's body and question, chat messages in two dialects, nested records.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1zero.errors import UserError

QUESTION_NAMES = ("problem", "question", "query", "instruction", "input", "prompt", "messages", "conversations")
ANSWER_NAMES = (
    "answer",
    "final_answer",
    "expected_answer",
    "ground_truth",
    "gt_answer",
    "ground_truth_answer",
    "gold",
    "target",
    "label",
    "reward_model.ground_truth",
)
SOLUTION_NAMES = ("solution", "output", "response", "completion")
"""Fields of worked solutions: the answer stands after the last ``####`` or in the last box."""
CHOICE_NAMES = ("options", "choices", "correct_option", "option_a", "opa")

_TEMPLATED = ("<|im_start|>", "<|begin_of_text|>", "<|start_header_id|>", "[INST]", "<|user|>")
_UNIT = re.compile(r"\s*([-+]?[\d.,/ ]*\d)\s*\([^()]*\)\s*")


@dataclass(frozen=True)
class Fields:
    """Dotted paths of question and answer in a row; ``context`` is text that goes in front of the question.

    ``solution`` says that the answer field holds a worked solution, ``unit`` that it may end in a unit
    in brackets, as in "9 (apples)". ``key`` is what the settings of the set begin with, for messages.
    """

    question: str
    answer: str
    context: str | None = None
    solution: bool = False
    unit: bool = False
    key: str = "data"

    def question_of(self, row: Mapping[str, Any]) -> str:
        """The question of a row as plain text; raises ``ValueError`` with the reason when there is none."""
        value = lookup(row, self.question)
        if _is_chat(value):
            text = _chat_question(value)
        elif isinstance(value, str):
            text = value
        else:
            raise ValueError(f"field '{self.question}' holds {_kind(value)}, not text")
        if self.context is not None:
            text = f"{lookup(row, self.context) or ''} {text}"
        text = text.strip()
        if not text:
            raise ValueError(f"field '{self.question}' is empty")
        marker = next((mark for mark in _TEMPLATED if mark in text), None)
        if marker is not None:
            raise ValueError(
                f"field '{self.question}' is in a chat template already (it holds {marker}); "
                f"name the field of the plain question with {self.key}.question_key"
            )
        return text

    def gold_of(self, row: Mapping[str, Any]) -> Any:
        """The raw gold answer of a row, for ``prepare_gold``: text, a number or a list of accepted answers.

        A worked solution is given whole. None when there is no answer, or a worked solution states none.
        """
        value = lookup(row, self.answer)
        if _is_chat(value):
            return _chat_answer(value)
        if self.solution:
            return _stated(value)
        if self.unit and isinstance(value, str):
            if ";" in value:  # several quantities, each with its unit: no single answer
                return None
            match = _UNIT.fullmatch(value)
            return match[1].strip() if match else value
        return value


def resolve(
    row: Mapping[str, Any], question_key: str | None, answer_key: str | None, what: str, key: str = "data"
) -> Fields:
    """Find the fields of question and answer from one row of a set.

    Args:
        row: A row; its keys are the set's columns.
        question_key: Dotted path named by the user, or None to find the field by its name.
        answer_key: The same for the gold answer.
        what: Name of the set for messages.
        key: What its settings begin with, for messages.

    Raises:
        UserError: Naming the columns found, when a named field is missing, none has a known name, or
            the set is multiple choice.
    """
    names = {name.casefold(): name for name in row}
    columns = ", ".join(columns_of(row))
    for option, field in (("question_key", question_key), ("answer_key", answer_key)):
        if field is not None and not _has(row, field):
            raise UserError(f"{what} has no field {key}.{option}={field}; its fields are: {columns}")
    if answer_key is None and (choice := _choices(names)) is not None:
        raise UserError(
            f"{what} is multiple choice (field '{choice}'), which is not supported; "
            f"name a field with the answer itself by {key}.answer_key, or use another set"
        )
    context = None
    if question_key is None:
        question_key = _find(row, names, QUESTION_NAMES)
        if question_key is None:
            raise UserError(f"{what} has no field of a known name for the question; name it with {key}.question_key. "
                            f"Its fields are: {columns}")  # fmt: skip
        if question_key.casefold() == "question":
            context = names.get("body")
    solution = False
    if answer_key is None:
        answer_key = _find(row, names, ANSWER_NAMES)
        if answer_key is None:
            answer_key = _find(row, names, SOLUTION_NAMES)
            solution = answer_key is not None
        if answer_key is None and _is_chat(lookup(row, question_key)):
            answer_key = question_key
        if answer_key is None:
            raise UserError(f"{what} has no field of a known name for the gold answer; name it with {key}.answer_key. "
                            f"Its fields are: {columns}")  # fmt: skip
    else:
        solution = answer_key.rsplit(".", 1)[-1].casefold() in SOLUTION_NAMES
    return Fields(question_key, answer_key, context, solution, unit=context is not None, key=key)


def lookup(row: Mapping[str, Any], path: str) -> Any:
    """Value at a dotted path, None where it does not exist. A column named with dots wins over nesting."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return None
    return value


def said_last(value: Any) -> str | None:
    """What the assistant says last in a conversation, None where the value is no conversation or nothing is said."""
    replies = _said_by(value, "assistant", "gpt") if _is_chat(value) else []
    return _content(replies[-1]).strip() or None if replies else None


def columns_of(row: Mapping[str, Any]) -> list[str]:
    """Column names of a row, those of nested records dotted."""
    names: list[str] = []
    for name, value in row.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) and value else [str(name)]
    return names


def as_row(item: Any) -> dict[str, Any] | None:
    """One element of a file as a row: an object, or a bare conversation; None for anything else."""
    if isinstance(item, Mapping):
        if set(item) == {"0", "1"}:  # a bare conversation read as a table
            return {"conversations": [item["0"], item["1"]]}
        return dict(item)
    if _is_chat(item):
        return {"conversations": item}
    return None


def _stated(solution: Any) -> Any:
    """A worked solution that states its answer after ``####`` or in a box, else None: prose is no gold answer."""
    if isinstance(solution, str):
        return solution if "####" in solution or "\\boxed" in solution or "\\fbox" in solution else None
    return [kept for item in solution if (kept := _stated(item)) is not None] if _is_list(solution) else None


def _find(row: Mapping[str, Any], names: Mapping[str, str], known: Sequence[str]) -> str | None:
    """The first known name that the row has, whatever its case; dotted names reach into records."""
    for name in known:
        if name in names:
            return names[name]
        if "." in name and _has(row, name):
            return name
    return None


def _has(row: Mapping[str, Any], path: str) -> bool:
    if path in row:
        return True
    parent, dot, last = path.rpartition(".")
    if not dot:
        return False
    value = lookup(row, parent)
    return (isinstance(value, Mapping) and last in value) or (_is_list(value) and lookup(row, path) is not None)


def _choices(names: Mapping[str, str]) -> str | None:
    for name in CHOICE_NAMES:
        if name in names:
            return names[name]
    return "A" if {"a", "b", "c", "d"} <= set(names) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_chat(value: Any) -> bool:
    """Whether a value is a list of messages: role and content, or from and value."""
    return (
        _is_list(value)
        and len(value) > 0
        and all(isinstance(message, Mapping) and ("role" in message or "from" in message) for message in value)
    )


def _said_by(chat: Sequence[Mapping[str, Any]], *roles: str) -> list[Mapping[str, Any]]:
    return [message for message in chat if (message.get("role") or message.get("from")) in roles]


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content", message.get("value"))
    return content if isinstance(content, str) else ""


def _chat_question(chat: Sequence[Mapping[str, Any]]) -> str:
    """The one message of the user. A system message is dropped: the template owns it."""
    asked = _said_by(chat, "user", "human")
    if len(asked) != 1:
        raise ValueError(f"a conversation with {len(asked)} messages of the user, where one question is expected")
    return _content(asked[0])


def _chat_answer(chat: Sequence[Mapping[str, Any]]) -> Any:
    """What the assistant's last message gives: a recorded ground truth, else the answer its text states."""
    replies = _said_by(chat, "assistant", "gpt")
    if not replies:
        return None
    truth = replies[-1].get("ground_truth")
    if truth is not None:
        return truth.get("value") if isinstance(truth, Mapping) else truth
    return _stated(_content(replies[-1]))


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
