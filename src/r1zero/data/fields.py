"""Which fields of a row hold the question and the gold answer, and what their values mean.

Imports nothing heavy: ``check_source`` runs before torch is loaded. The shapes handled here are those
that public question sets really have (the table of docs/data.md). A field of content is used, or the set is
refused, or the field is named in a note: none is dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1zero.data import golds
from r1zero.data.chat import IGNORED, answer_in, as_chat, question_in, role_of
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
CONTEXT_NAMES = ("context", "passage", "body", "background", "paragraph", "premise", "story", "article", "document")
"""Fields whose text belongs in front of the question."""
MEDIA_NAMES = ("image", "images", "figure", "picture", "audio", "video", "videos")
"""Fields that no text model reads."""

_TEMPLATED = ("<|im_start|>", "<|begin_of_text|>", "<|start_header_id|>", "[INST]", "<s>[INST]", "<|user|>")
_UNIT = re.compile(r"\s*([-+]?[\d.,/ ]*\d)\s*\([^()]*\)\s*")


@dataclass(frozen=True)
class Fields:
    """Dotted paths of question and answer in a row; the texts of ``context`` go in front of the question.

    ``solution`` says that the answer field holds a worked solution, ``unit`` that it may end in a unit
    in brackets, as in "9 (apples)". ``key`` is what the settings of the set begin with, for messages.
    ``unread`` are fields of content that are not used, each with the reason.
    """

    question: str
    answer: str
    context: tuple[str, ...] = ()
    solution: bool = False
    unit: bool = False
    key: str = "data"
    unread: tuple[str, ...] = ()

    def question_of(self, row: Mapping[str, Any]) -> str:
        """The question of a row as plain text; raises ``ValueError`` with the reason when there is none."""
        text = _text(row, self.question).strip()
        if not text:
            raise ValueError(f"field '{self.question}' is empty")
        marker = next((mark for mark in _TEMPLATED if text.startswith(mark)), None)
        if marker is not None:
            raise ValueError(
                f"field '{self.question}' is in a chat template already (it begins with {marker}); "
                f"name the field of the plain question with {self.key}.question_key"
            )
        # SVAMP's body and question are sentences of one text; other contexts are texts of their own.
        space = " " if self.unit else "\n\n"
        before = [_text(row, name).strip() for name in self.context if lookup(row, name) is not None]
        return whole_text(space.join([*filter(None, before), text]), self.question)

    def gold_of(self, row: Mapping[str, Any]) -> Any:
        """The raw gold answer of a row, for ``prepare_gold``: text, a number or a list of accepted answers.

        A worked solution is given whole. None when there is no answer, or a worked solution states none.

        Raises:
            ValueError: the answer is prose that names no single answer, or no text at all.
        """
        value = lookup(row, self.answer)
        chat = as_chat(value)
        if chat is not None:
            value = answer_in(chat)
            return _stated(value) if isinstance(value, str) and not _recorded(chat) else value
        if self.solution:
            return _stated(value)
        if self.unit and isinstance(value, str):
            if ";" in value:  # several quantities, each with its unit: no single answer
                return None
            match = _UNIT.fullmatch(value)
            value = match[1].strip() if match else value
        try:
            return golds.read(value)
        except ValueError as error:
            raise ValueError(f"field '{self.answer}' {error}") from None


def whole_text(text: str, name: str) -> str:
    """A text that can be written; raises ``ValueError`` where JSON spells half a character (a lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(error.object[error.start]):04X}"
        raise ValueError(f"field '{name}' holds half a character ({half}, a lone surrogate)") from None
    return text


def resolve(
    row: Mapping[str, Any],
    question_key: str | None,
    answer_key: str | None,
    what: str,
    key: str = "data",
    gold: bool = True,
) -> Fields:
    """Find the fields of question and answer from one row of a set, or from :func:`typical` of all.

    Args:
        row: A row; its keys are the set's columns.
        question_key: Dotted path named by the user, or None to find the field by its name.
        answer_key: The same for the gold answer.
        what: Name of the set for messages.
        key: What its settings begin with, for messages.
        gold: Whether there are gold answers; without them no field of one is looked for.

    Raises:
        UserError: Naming the columns found, when a named field is missing, none has a known name, two may be the
            question, or the set is multiple choice.
    """
    names = {name.casefold(): name for name in row}
    columns = ", ".join(columns_of(row))
    for option, field in (("question_key", question_key), ("answer_key", answer_key)):
        if field is not None and not has(row, field):
            raise UserError(f"{what} has no field {key}.{option}={field}; its fields are: {columns}")
    choice = _choices(row, names)
    if gold and answer_key is None and choice is not None:
        raise UserError(
            f"{what} is multiple choice (field '{choice}'), which is not supported; "
            f"name a field with the answer itself by {key}.answer_key, or use another set"
        )
    context: tuple[str, ...] = ()
    named = question_key is not None
    if question_key is None:
        question_key = _find(row, names, QUESTION_NAMES)
        if question_key is None:
            raise UserError(f"{what} has no field of a known name for the question; name it with {key}.question_key. "
                            f"Its fields are: {columns}")  # fmt: skip
        if question_key.casefold() == "instruction" and _filled(row, names, "input"):
            question_key, context = names["input"], (question_key,)
        else:
            context = tuple(names[name] for name in CONTEXT_NAMES if _filled(row, names, name))
            _refuse_second(row, names, question_key, what, key)
    solution = False
    if not gold:
        return Fields(
            question_key, "", context, key=key, unread=_unread(row, names, {question_key, *context}, named, None)
        )
    if answer_key is None:
        answer_key = _find(row, names, ANSWER_NAMES)
        if answer_key is None:
            answer_key = _find(row, names, SOLUTION_NAMES)
            solution = answer_key is not None
        if answer_key is None and as_chat(lookup(row, question_key)) is not None:
            answer_key = question_key
        if answer_key is None:
            raise UserError(f"{what} has no field of a known name for the gold answer; name it with {key}.answer_key. "
                            f"Its fields are: {columns}")  # fmt: skip
    else:
        solution = answer_key.rsplit(".", 1)[-1].casefold() in SOLUTION_NAMES
    unit = [name.casefold() for name in context] == ["body"]
    unread = _unread(row, names, {question_key, answer_key, *context}, named, choice)
    return Fields(question_key, answer_key, context, solution, unit, key, unread)


def typical(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One row with every field that any row has, each with the first value that is not empty."""
    found: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            if name not in found or (_empty(found[name]) and not _empty(value)):
                found[name] = value
    return found


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
    return {"conversations": item} if not isinstance(item, str) and as_chat(item) is not None else None


def are_rows(items: Sequence[Any]) -> bool:
    """Whether the elements of an array can be rows; the first one tells."""
    return len(items) > 0 and as_row(items[0]) is not None


def _stated(solution: Any) -> Any:
    """A worked solution that states its answer after ``####`` or in a box, or the answer that it names; else None."""
    if isinstance(solution, str):
        return solution if golds.names_its_answer(solution) else golds.stated(solution)
    return [kept for item in solution if (kept := _stated(item)) is not None] if _is_list(solution) else None


def _find(row: Mapping[str, Any], names: Mapping[str, str], known: Sequence[str]) -> str | None:
    """The first known name that the row has, whatever its case; dotted names reach into records."""
    for name in known:
        if name in names:
            return names[name]
        if "." in name and has(row, name):
            return name
    return None


def has(row: Mapping[str, Any], path: str) -> bool:
    """Whether a row has a value, empty or not, at a dotted path."""
    if path in row:
        return True
    parent, dot, last = path.rpartition(".")
    if not dot:
        return False
    value = lookup(row, parent)
    return (isinstance(value, Mapping) and last in value) or (_is_list(value) and lookup(row, path) is not None)


def _choices(row: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    """The field of the choices of a multiple-choice set; one that is empty throughout offers none."""
    for name in CHOICE_NAMES:
        if _filled(row, names, name):
            return names[name]
    return "A" if {"a", "b", "c", "d"} <= set(names) else None


def _filled(row: Mapping[str, Any], names: Mapping[str, str], name: str) -> bool:
    """Whether a field is there, whatever its case, and holds something."""
    return name in names and not _empty(row[names[name]])


def _empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(_empty(item) for item in value.values())
    return value is None or (_is_list(value) and len(value) == 0)


def _refuse_second(row: Mapping[str, Any], names: Mapping[str, str], chosen: str, what: str, key: str) -> None:
    """Two fields that may both be the question, with different texts: neither is dropped silently."""
    text = _bare(row, chosen)
    for name in QUESTION_NAMES:
        other = names.get(name)
        if other is None or other == chosen or not _filled(row, names, name) or not text:
            continue
        second = _bare(row, other)
        if second and not _templated(row, other) and text not in second and second not in text:
            raise UserError(
                f"{what} has two fields that may hold the question, '{chosen}' and '{other}', with different texts; "
                f"name the one that is asked with {key}.question_key"
            )


def _bare(row: Mapping[str, Any], name: str) -> str:
    """A field's text without white space; nothing where it has none."""
    try:
        return "".join(_text(row, name).split())
    except ValueError:
        return ""


def _templated(row: Mapping[str, Any], name: str) -> bool:
    value = lookup(row, name)
    return isinstance(value, str) and value.lstrip().startswith(_TEMPLATED)


def _text(row: Mapping[str, Any], name: str) -> str:
    """The text of a field, or the user's message in it; raises ``ValueError`` where it holds neither."""
    value = lookup(row, name)
    chat = as_chat(value)
    if chat is not None:
        try:
            return question_in(chat)
        except ValueError as error:
            raise ValueError(f"field '{name}': {error}") from None
    if isinstance(value, str):
        return value
    raise ValueError(f"field '{name}' holds {_kind(value)}, not text")


def _unread(
    row: Mapping[str, Any], names: Mapping[str, str], used: set[str], named: bool, choice: str | None
) -> tuple[str, ...]:
    """Fields of content that no prompt shows, each with the reason."""
    notes = []
    for name in (*used, *names.values()):
        chat = as_chat(lookup(row, name)) if name in used else None
        if chat is not None and any(role_of(message) in IGNORED for message in chat):
            notes.append(f"the system message of '{name}' (template.system sets one)")
    for name in ("system", "system_prompt"):
        if _filled(row, names, name):
            notes.append(f"'{names[name]}' (template.system sets a system message)")
    media = [names[name] for name in MEDIA_NAMES if name in names]
    notes += [f"'{name}' (models read text alone)" for name in media if lookup(row, name) not in (None, "", [], {})]
    if choice is not None and choice not in used:
        notes.append(f"'{choice}' (the choices)")
    if named:
        content = (*CONTEXT_NAMES, *QUESTION_NAMES)
        others = [names[name] for name in content if _filled(row, names, name) and names[name] not in used]
        notes += [f"'{name}' (data.question_key names another field)" for name in others]
    return tuple(dict.fromkeys(notes))


def _recorded(chat: Any) -> bool:
    """Whether the assistant's last message has its ground truth beside the text."""
    replies = [message for message in chat if role_of(message) in ("assistant", "gpt")]
    return bool(replies) and replies[-1].get("ground_truth") is not None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _kind(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return "bytes that are not UTF-8"
    return "nothing" if value is None else f"a {type(value).__name__}"
