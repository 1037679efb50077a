"""From a configured question set to questions, and from questions to prompts of a length the model takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1zero.batch import Prompt, Question
from r1zero.config import BadGold, DataConfig, Gold
from r1zero.data import fields
from r1zero.data.keep import check_kept, kept
from r1zero.data.mixture import mix
from r1zero.data.sources import describe, generator_of, read_rows, source_kind
from r1zero.data.templates import Template
from r1zero.data.where import select
from r1zero.errors import UserError
from r1zero.reward.gold import prepare_gold

log = logging.getLogger("r1zero")

META = ("level", "subject", "type", "category", "subfield", "difficulty", "year", "unique_id", "id", "source")
"""Fields kept with a question, for results per level or subject."""


GoldCheck = Callable[[Sequence[tuple[str, ...]]], Sequence[tuple[int, str]]]
"""Index and reason of each gold answer that can't be graded; ``Grader.audit_golds`` is one."""


def load_questions(cfg: DataConfig, seed: int = 0, check: GoldCheck | None = None) -> list[Question]:
    """Read a question set; its gold answers are normalised and checked here, once (trap 48).

    ``data.where`` selects rows first, ``data.rows`` checks how many there are then, ``data.drop`` leaves rows out,
    ``data.limit`` takes the first of the rest. A bad gold answer is an error, or drops its row with one log line that
    gives the count.

    Args:
        cfg: Source and fields of the set.
        seed: Seed of a generator that has none in ``data.params``.
        check: Judges all normalised gold answers at once, e.g. whether the verifier accepts each against itself.

    Raises:
        UserError: The source, a field, a row or a count is not as configured; the message says which.
    """
    kind = source_kind(cfg)
    if kind == "mixture":
        return mix(cfg, lambda part: load_questions(part, seed, check))
    if kind == "generator":
        return _generate(cfg, seed)
    what = describe(cfg)
    rows = read_rows(cfg)
    verify = cfg.gold is Gold.verify
    usual = fields.typical(rows)
    found = fields.resolve(usual, cfg.question_key, cfg.answer_key, what, gold=verify)
    check_kept(usual, cfg.keep, what)
    if found.unread:
        log.warning("%s: not shown to the model: %s", what, "; ".join(found.unread))
    chosen = select(rows, cfg, what)
    if cfg.rows is not None and len(chosen) != cfg.rows:
        raise UserError(
            f"{what} has {len(chosen)} rows where data.rows={cfg.rows} are expected: the source is not the known one; "
            "fix data.revision, or set data.rows=null to take it as it is"
        )
    if cfg.drop:
        dropped = dropped_rows(cfg.drop)
        chosen = [(index, row) for index, row in chosen if index not in dropped]
        log.info("%s: %d rows left out by data.drop=%s", what, len(dropped), cfg.drop)
    questions: list[Question] = []
    bad: list[tuple[int, str]] = []
    for index, row in chosen[: cfg.limit]:
        try:
            text = found.question_of(row)
        except ValueError as error:
            raise UserError(f"{what} row {index}: {error}") from None
        try:
            value = found.gold_of(row) if verify else None
            gold = tuple(fields.whole_text(form, found.answer) for form in prepare_gold(value))
        except ValueError as error:
            bad.append((index, str(error)))
            continue
        if gold or not verify:
            meta = {name: row[name] for name in META if isinstance(row.get(name), (str, int, float))}
            meta |= kept(row, cfg.keep, f"{what} row {index}")
            questions.append(Question(text, gold, cfg.name, index, meta))
        else:
            bad.append((index, f"no gold answer in field '{found.answer}' ({_shown(value)})"))
    if check is not None and questions and verify:
        reasons = dict(check([question.gold for question in questions]))
        bad += [(questions[at].row, why) for at, why in reasons.items()]
        questions = [question for at, question in enumerate(questions) if at not in reasons]
    if bad:
        bad.sort()
        if cfg.bad_gold == BadGold.error:
            index, why = bad[0]
            more = f" (and {len(bad) - 1} more rows)" if len(bad) > 1 else ""
            raise UserError(
                f"{what} row {index}: {why}{more}; correct it, or leave such rows out with data.bad_gold=drop"
            )
        places = ", ".join(str(index) for index, _ in bad[:5]) + (", ..." if len(bad) > 5 else "")
        log.info("%s: %d of %d rows left out for a bad gold answer (rows %s)", what, len(bad), len(chosen), places)
    if not questions:
        raise UserError(f"{what} has no row with a usable gold answer in field '{found.answer}'")
    return questions


def dropped_rows(path: str) -> frozenset[int]:
    """Row numbers of a file for ``data.drop``, one a line, from 0; text behind a # is a comment.

    Raises:
        UserError: The file can't be read, or a line is not a number.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.drop={path} can't be read: {error}") from None
    numbers = [line.partition("#")[0].strip() for line in lines]
    for at, number in enumerate(numbers, 1):
        if number and not (number.isascii() and number.isdigit()):
            raise UserError(f"data.drop={path}, line {at}: {number[:40]!r} is not a row number")
    return frozenset(int(number) for number in numbers if number)


def build_prompts(
    questions: Sequence[Question], template: Template, tokenizer: Any, max_prompt_tokens: int
) -> tuple[list[Prompt], int]:
    """Put questions into a template and tokenise them, once (semantics 13).

    Returns:
        The prompts of at most ``max_prompt_tokens`` tokens in the order of the questions, and how many
        longer ones were dropped (trap 27).

    Raises:
        UserError: No prompt is short enough.
    """
    prompts: list[Prompt] = []
    shortest = None
    for question in questions:
        text, ids = template.encode(question.text, tokenizer)
        if len(ids) <= max_prompt_tokens:
            prompts.append(Prompt(question, text, ids))
        elif shortest is None or len(ids) < shortest:
            shortest = len(ids)
    if not prompts:
        source = questions[0].source if questions else "none"
        raise UserError(
            f"all {len(questions)} prompts of data '{source}' are longer than data.max_prompt_tokens="
            f"{max_prompt_tokens} (the shortest has {shortest} tokens with template={template.name})"
        )
    return prompts, len(questions) - len(prompts)


def _generate(cfg: DataConfig, seed: int) -> list[Question]:
    """Questions of a generator; ``params.count`` is how many, ``data.limit`` cuts them."""
    generator, params = generator_of(cfg)
    questions = generator.generate(**{"seed": seed} | params)
    if cfg.gold is Gold.none:
        questions = [replace(question, gold=()) for question in questions]
    elif not questions[0].gold:
        raise UserError(f"{describe(cfg)}: its questions have unit tests and no gold answers; set data.gold=none")
    check_kept(questions[0].meta, cfg.keep, describe(cfg))
    return questions[: cfg.limit]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
