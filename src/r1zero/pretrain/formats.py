r"""How a record becomes a document: one field as it is, or a question and its answer put together.

``qa_text`` reads the shapes that public sets really have (:mod:`r1zero.data.fields`): GSM8K's working with
its ``<<3+4=7>>`` notes and its ``#### 7``, worked solutions that end in a box, bare answers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from r1zero.data import fields
from r1zero.data.chat import said_last
from r1zero.errors import UserError
from r1zero.pretrain.config import SourceConfig
from r1zero.reward.gold import prepare_gold

log = logging.getLogger("r1zero")

TEXT_NAMES = ("text", "content", "document", "raw_content", "body")
ANSWER_PLACES = ("solution", "output", "response", "completion", "answer", "final_answer", "expected_answer")
"""Names of the answer's field for qa_text: a worked solution before a bare answer."""

_NOTE = re.compile(r"<<[^<>]*>>")
_FINAL = re.compile(r"\s*####\s*(.+?)\s*\Z", re.DOTALL)

Form = Callable[[Mapping[str, Any], str], str]
"""(record, where it stands) -> the document; empty where the record holds nothing."""


def form_of(source: SourceConfig, first: Mapping[str, Any], key: str) -> Form:
    """Choose the fields by the first record of a source.

    Args:
        source: Its settings.
        first: A record.
        key: What its settings begin with, for messages: data.sources.qa.

    Raises:
        UserError: A field is missing, the template lacks a place, or the format is unknown. So does the form for a
            record that makes no document, unless ``source.drop_bad``.
    """
    what = f"{key} ({source.path})"
    form = _form_of(source, first, what, key)
    if not source.drop_bad:
        return form
    said = False

    def lenient(record: Mapping[str, Any], where: str) -> str:
        nonlocal said
        try:
            return form(record, where)
        except UserError as error:
            if not said:
                log.warning("%s: left out: %s; others like it are left out without a word", what, error)
            said = True
            return ""

    return lenient


def _form_of(source: SourceConfig, first: Mapping[str, Any], what: str, key: str) -> Form:
    if source.format == "text":
        name = source.text_key or _named(first, TEXT_NAMES)
        if name is None or fields.lookup(first, name) is None:
            raise UserError(
                f"{what} has no field '{source.text_key or 'text'}'; name the field of the text with {key}.text_key. "
                f"Its fields are: {', '.join(fields.columns_of(first))}"
            )
        return lambda record, where: text_of(record, name, where)
    for place in ("{question}", "{answer}"):
        if source.template.count(place) != 1:
            raise UserError(f"{what}: template must hold {place} exactly once")
    answer_key = source.answer_key or _named(first, ANSWER_PLACES)
    found = fields.resolve(first, source.question_key, answer_key, what, key)
    if found.unread:
        log.warning("%s: left out of the text: %s", what, "; ".join(found.unread))

    def form(record: Mapping[str, Any], where: str) -> str:
        try:
            question = found.question_of(record)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        value = fields.lookup(record, found.answer)
        if isinstance(value, (list, tuple)) and value and not isinstance(value[0], Mapping):
            value = value[0]  # several accepted answers: the first one is written
        elif isinstance(value, (list, tuple)):
            value = said_last(value) if value else None
        if isinstance(value, (int, float, Decimal)):
            value = next(iter(prepare_gold(value)), None)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UserError(f"{where} has no field '{found.answer}', or nothing in it")
        if not isinstance(value, str):
            raise UserError(f"{where}: field '{found.answer}' holds a {type(value).__name__}, not text; name the field "
                            f"of the answer with {key}.answer_key")  # fmt: skip
        return qa_text(question, whole(value, found.answer, where), source.template, source.box)

    return form


def text_of(record: Mapping[str, Any], key: str, where: str) -> str:
    """The text of a record. Raises ``UserError`` when the field is missing or holds no text."""
    value = fields.lookup(record, key)
    if not isinstance(value, str):
        held = "is missing" if value is None else f"holds a {type(value).__name__}"
        raise UserError(f"{where}: field '{key}' {held}; every record must hold its text there")
    return whole(value, key, where)


def whole(text: str, name: str, where: str) -> str:
    """A text that can be tokenized. Raises ``UserError`` where it holds half a character."""
    try:
        return fields.whole_text(text, name)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def qa_text(question: str, answer: str, template: str, box: bool) -> str:
    r"""Put a question and its answer together as one document.

    GSM8K's notes are taken out. With ``box`` the document ends in a box: one that the answer has stays;
    ``#### 7`` becomes ``The final answer is \boxed{7}.``; a bare answer is boxed itself.
    """
    answer = _NOTE.sub("", answer).strip()
    if box and "\\boxed{" not in answer:
        final = _FINAL.search(answer)
        if final is None:
            answer = f"\\boxed{{{answer.rstrip('.')}}}"
        else:
            answer = f"{answer[: final.start()]}\nThe final answer is \\boxed{{{final[1].replace(',', '')}}}."
    return template.replace("{answer}", "\0").replace("{question}", question).replace("\0", answer)


def _named(record: Mapping[str, Any], known: tuple[str, ...]) -> str | None:
    names = {name.casefold(): name for name in record}
    return next((names[name] for name in known if name in names), None)
