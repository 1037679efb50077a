"""Shows what a question set would give a run: fields, prompts, golds, what is left out, repeats, overlaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from r1zero.batch import Prompt, Question
from r1zero.config import DataConfig, Gold
from r1zero.data import fields
from r1zero.data.overlap import overlap
from r1zero.data.plain_text import special_texts
from r1zero.data.prompts import load_questions, select
from r1zero.data.sources import describe, read_rows, source_kind
from r1zero.data.templates import Template
from r1zero.errors import UserError
from r1zero.reward.gold import prepare_gold

SHOWN = 5
"""Prompts, rows and lengths that are listed."""
WIDTH = 100
"""Characters of a value that are shown."""


def report(
    data: DataConfig, benchmarks: Mapping[str, DataConfig], template: Template, tokenizer: Any, seed: int
) -> Iterator[str]:
    """Lines about a set, as they are known.

    Args:
        data: the set.
        benchmarks: sets that it is compared with; those that can't be read are named.
        template: how a question becomes a prompt.
        tokenizer: of the model.
        seed: of a generator.

    Raises:
        UserError: the set can't be used at all; the message says which row and field.
    """
    yield f"{describe(data)}, a {source_kind(data)}"
    bad: dict[int, str] = {}
    if source_kind(data) in ("generator", "mixture"):
        questions = load_questions(data, seed)
    else:
        rows = read_rows(data)
        graded = data.gold is Gold.verify
        usual = fields.typical(rows)
        found = fields.resolve(usual, data.question_key, data.answer_key, describe(data), gold=graded)
        yield from _fields(found, data, rows)
        questions, bad = _questions(found, data, rows)
    yield from _golds(questions, bad)
    if not questions:
        raise UserError(f"{describe(data)} has no usable question")
    prompts = [Prompt(q, *template.encode(q.text, tokenizer)) for q in questions]
    yield from _prompts(prompts, data, template, tokenizer)
    yield from _repeats(questions)
    for name, cfg in benchmarks.items():
        try:
            common = overlap(questions, load_questions(cfg, seed))
        except UserError as error:
            yield f"overlap with {name}: not measured ({short(str(error))})"
        else:
            yield f"overlap with {name}: {common}"


def _fields(found: fields.Fields, data: DataConfig, rows: list[dict[str, Any]]) -> Iterator[str]:
    named = {True: "named by a setting", False: "found by its name"}
    yield f"  question: '{found.question}' ({named[data.question_key is not None]})"
    for name in found.context:
        yield f"  in front of it: '{name}'"
    kind = "a worked solution, whose answer is read" if found.solution else "the answer itself"
    yield f"  answer: '{found.answer}' ({named[data.answer_key is not None]}; {kind})"
    for note in found.unread:
        yield f"  not shown to the model: {note}"
    used = {found.question, found.answer, *found.context}
    roots = {name.split(".")[0] for name in used}
    others = [name for name in fields.columns_of(fields.typical(rows)) if name.split(".")[0] not in roots]
    yield f"  other fields: {', '.join(others) or 'none'}"


def _questions(
    found: fields.Fields, data: DataConfig, rows: list[dict[str, Any]]
) -> tuple[list[Question], dict[int, str]]:
    """All questions with a gold answer, and the reason of each row without one."""
    questions, bad = [], {}
    for index, row in select(rows, data, describe(data))[: data.limit]:
        try:
            text = found.question_of(row)
            value = found.gold_of(row) if data.gold is Gold.verify else None
        except ValueError as error:
            bad[index] = str(error)
            continue
        gold = prepare_gold(value)
        if gold or data.gold is not Gold.verify:
            questions.append(Question(text, gold, data.name, index, {"raw": fields.lookup(row, found.answer)}))
        else:
            bad[index] = f"no gold answer in field '{found.answer}' ({short(repr(value))})"
    return questions, bad


def _golds(questions: list[Question], bad: dict[int, str]) -> Iterator[str]:
    yield f"{len(questions):,} questions with a gold answer, {len(bad):,} rows without"
    for index, why in list(bad.items())[:SHOWN]:
        yield f"  row {index}: {why}"
    for question in [question for question in questions[:SHOWN] if question.gold]:
        raw = question.meta.get("raw", question.gold[0])
        yield f"  gold of row {question.row}: {short(repr(raw))} -> {' or '.join(question.gold)}"
    guessed = [q for q in questions if isinstance(q.meta.get("raw"), float) and repr(q.meta["raw"]) != q.gold[0]]
    guessed = [q for q in guessed if not float(q.meta["raw"]).is_integer()]
    if guessed:
        raw, gold = guessed[0].meta["raw"], guessed[0].gold[0]
        yield f"  {len(guessed)} golds are guesses of the decimal that was meant, such as {gold} for {raw!r}"


def _prompts(prompts: list[Prompt], data: DataConfig, template: Template, tokenizer: Any) -> Iterator[str]:
    lengths = sorted((len(prompt.ids) for prompt in prompts), reverse=True)
    cut = sum(length > data.max_prompt_tokens for length in lengths)
    longest = ", ".join(map(str, lengths[:SHOWN]))
    yield f"prompts with template={template.name}: {lengths[-1]} to {lengths[0]} tokens, the longest {longest}"
    yield f"  {cut} over data.max_prompt_tokens={data.max_prompt_tokens} are left out"
    controls = set(tokenizer.added_tokens_decoder)
    for prompt in prompts[:SHOWN]:
        yield f"  {visible(prompt.ids, tokenizer, controls)!r}"
    names = special_texts(tokenizer)
    holding = [p.question.row for p in prompts if any(name in p.question.text for name in names)]
    if holding:
        yield f"  {len(holding)} questions hold the name of a special token, as text (rows {_listed(holding)})"


def visible(ids: list[int], tokenizer: Any, controls: set[int]) -> str:
    """A prompt's text with each control token in ⟦ ⟧, to distinguish it from text of the same letters."""
    parts: list[str] = []
    run: list[int] = []
    for token in [*ids, None]:
        if token is not None and token not in controls:
            run.append(token)
            continue
        if run:
            parts.append(tokenizer.decode(run))
            run = []
        if token is not None:
            parts.append(f"⟦{tokenizer.convert_ids_to_tokens(token)}⟧")
    return "".join(parts)


def _repeats(questions: list[Question]) -> Iterator[str]:
    counts = Counter("".join(question.text.split()) for question in questions)
    repeated = {text for text, count in counts.items() if count > 1}
    rows = [question.row for question in questions if "".join(question.text.split()) in repeated]
    yield f"repeated questions: {len(repeated)}" + (f" (rows {_listed(rows)})" if rows else "")


def _listed(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")


def short(text: str) -> str:
    """A text in one line of bounded width."""
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
