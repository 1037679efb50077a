"""What a policy earns without solving: answers copied from a question, guessed or hedged, graded as in training.

`python scripts/grade.py --attack questions.jsonl` prints the rate of reward for each kind of cheat with the worst
examples, and writes the questions that a copied answer solves to a file that ``data.drop`` takes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.launch.files import parse_json
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.rules.equation import is_name
from r1zero.reward.rules.latex import canonical, key
from r1zero.reward.rules.number import parse_number
from r1zero.reward.rules.quantity import split_unit
from r1zero.reward.rules.structure import shape, sides
from r1zero.reward.rules.values import constant

COPIED = ("copied equation", "copied number", "copied expression")
"""Kinds that find the answer in the question: where one is paid, the question states its answer."""
GUESSED = ("other gold", "frequent answer")
CHUNK = 2000

_SPAN = re.compile(
    r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]|\\begin\{align\*?\}(.+?)\\end\{align\*?\}", re.DOTALL
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?(?!\w)|\\d?frac\{\d+\}\{\d+\}")
_PLAIN_EQUATION = re.compile(
    r"[\w()^+\-*/.]+(?: [+\-*/^] [\w()^+\-*/.]+)* ?= ?[\w()^+\-*/.]+(?: [+\-*/^] [\w()^+\-*/.]+)*"
)
_MOST = 12
"""Copied answers of one kind that are tried on a question."""


@dataclass(frozen=True)
class Cheat:
    """One answer that solves nothing."""

    kind: str
    response: str
    extractor: str = "boxed"


@dataclass
class Tally:
    """Cheats of one kind: how many, how many were paid, and how many of those the question's own words pay for."""

    tried: int = 0
    paid: int = 0
    stated: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Attacked:
    """A question with its gold answers."""

    name: str
    question: str
    gold: tuple[str, ...]


def read_questions(path: Path) -> list[Attacked]:
    """Questions of a file of JSON lines, found by the usual names of their fields.

    Raises:
        UserError: The file can't be read, a line is not JSON, or a line has no question or answer.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read {path}: {error}") from error
    found: list[Attacked] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number + 1}: not JSON ({getattr(error, 'msg', error)})") from error
        question = _first(row, ("problem", "question", "prompt")) if isinstance(row, dict) else None
        gold = _first(row, ("answer", "gold", "final_answer", "solution")) if isinstance(row, dict) else None
        if not isinstance(question, str) or gold is None:
            raise UserError(
                f'{path}, line {number + 1}: a line needs "problem" (or "question") and "answer" (or "gold")'
            )
        forms = prepare_gold(gold)
        if forms:
            found.append(Attacked(str(number), question, forms))
    if not found:
        raise UserError(f"{path} has no question with a gold answer")
    return found


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def cheats(at: Attacked, others: list[str], frequent: list[str]) -> Iterator[Cheat]:
    """All answers that are tried on one question.

    Args:
        at: The question.
        others: Gold answers of other questions.
        frequent: Answers that are right most often in the set, and 0, 1, 2, -1.
    """
    yield from copied(at.question)
    equal = {key(form) for form in at.gold}
    for kind, answers in zip(GUESSED, (others, frequent), strict=True):
        yield from (
            _boxed(kind, answer) for answer in answers if not _same_number(answer, at.gold) and key(answer) not in equal
        )
    for cheat in changed(at.gold[0]):
        if cheat.kind in ("neighbour", "reciprocal") and _same_number(cheat.response[7:-1], at.gold):
            continue  # another form of the gold answer
        yield cheat
    read = [split_unit(canonical(form), True) for form in at.gold]
    if all(one.unit and not one.percent for one in read):
        swapped = "hours" if read[0].unit[0][0] != "h" else "days"
        yield _boxed("other unit", f"{read[0].body}\\text{{ {swapped}}}")


def copied(question: str) -> Iterator[Cheat]:
    """Equations, numbers and expressions of a question as its answer, each once."""
    spans = [next(part for part in match.groups() if part is not None) for match in _SPAN.finditer(question)]
    pieces = [
        piece.strip(" \n.,;&")
        for span in spans
        for piece in ([span] if "matrix}" in span else re.split(r"\\\\|,\s*\\quad|\\quad|\n\n", span.replace("&", "")))
    ]
    if not spans:
        pieces = [match.group() for match in _PLAIN_EQUATION.finditer(question)]
    pieces = [piece for piece in dict.fromkeys(pieces) if 0 < len(piece) < 200]
    equations = [piece for piece in pieces if "=" in piece]
    for equation in islice(equations, _MOST):
        yield _boxed("copied equation", equation)
    numbers = dict.fromkeys(match.group() for match in _NUMBER.finditer(question))
    for number in islice(numbers, _MOST):
        yield _boxed("copied number", number)
    for piece in islice((one for one in pieces if "=" not in one and one not in numbers), _MOST):
        yield _boxed("copied expression", piece)


def changed(gold: str) -> Iterator[Cheat]:
    """A gold answer turned into a wrong one: what a policy says that is near the answer, or hedges it."""
    text = canonical(gold)
    number, got = parse_number(text), shape(text)
    single = got is not None and got.kind == "single" and "=" not in text and "\\text" not in text
    nonzero = re.search(r"[1-9a-zA-Z]|\\pi", re.sub(r"\\[a-z]+(?:\{[pbv]?matrix\})?", "", text))
    if single and nonzero and "\\pm" not in text:
        yield _boxed("negation", gold[1:] if number and gold.startswith("-") else f"-({gold})")
    if single:
        for left in ("2x+1", "x^2", "x+y", "\\sqrt{x}", "97"):
            if text not in (left, "97"):
                yield _boxed("made-up equation", f"{left}={gold}")
    if number is not None:
        if number.value not in (0, 1, -1):
            yield _boxed("reciprocal", f"\\frac{{{number.value.denominator}}}{{{number.value.numerator}}}")
        for near in (number.value + 1, number.value - 1):
            yield _boxed("neighbour", str(near))
        other = number.value + 1
        for form in (f"{gold} \\text{{ or }} {other}", f"{gold}, {other}", f"{gold} \\text{{ (or maybe {other})}}",
                     f"\\text{{not }} {gold}", f"x={gold}, y={other}"):  # fmt: skip
            yield _boxed("hedge", form)
        for form in (f"twice the number {gold}", f"every number below {gold} works", f"It is not {gold}.",
                     f"between 0 and {gold}", f"minus the number {gold}", f"It is {gold} or {other}."):  # fmt: skip
            yield Cheat("prose", f" so </think> <answer> {form} </answer>", "answer_tag")
        if number.value != 0:
            for word in ("squared", "dozen", "halves", "factorial", "thirds", "less", "repeating"):
                yield _boxed("other unit", f"{gold} \\text{{ {word}}}")
        yield Cheat("many boxes", f"\\boxed{{{gold}}} \\boxed{{{other}}} \\boxed{{{number.value + 2}}}")
    unit = split_unit(text, True).unit
    if unit and not unit[0][0].startswith("%"):
        yield _boxed(
            "other unit", f"{split_unit(text, True).body}\\text{{ {'hours' if unit[0][0] != 'h' else 'days'}}}"
        )
    if got is not None and got.kind in ("tuple", "set") and len(got.members) > 1:
        inside = ",".join(got.members)
        for opening, closing in (("(", ")"), ("[", "]"), ("\\{", "\\}"), ("(", "]"), ("[", ")")):
            if opening + closing != got.brackets and (len(got.members) == 2 or "\\{" in got.brackets + opening):
                yield _boxed("other bracket", f"{opening}{inside}{closing}")
    if re.fullmatch(r"(?:\\text\{)?\(?[A-E]\)?\}?", text):
        mine = "".join(re.findall("[A-E]", text))
        several = f"({mine}) 1 ({'B' if mine == 'A' else 'A'}) 2"
        for form in ("A, B, C, D, E", "A or B or C or D or E", "ABCDE", "(A)(B)(C)(D)(E)", several):
            yield _boxed("every alternative", form)


def _boxed(kind: str, answer: str) -> Cheat:
    return Cheat(kind, f"\\boxed{{{answer}}}")


def _same_number(answer: str, golds: tuple[str, ...]) -> bool:
    """Whether an answer is a gold's number, with or without a name or a unit."""
    ours = _value(answer)
    return ours is not None and any(ours == _value(gold) for gold in golds)


def _value(text: str) -> Any:
    bare = canonical(text)
    pieces = sides(bare)
    read = split_unit(pieces[-1] if pieces else bare, True)
    number = parse_number(read.body) or parse_number(re.sub(r"_\{?\d+\}?$", "", read.body))
    return None if number is None else number.value / (100 if read.percent and number.value >= 100 else 1)


def attack(grader: Grader, questions: list[Attacked], limit: int = 5) -> tuple[dict[str, Tally], list[str]]:
    """Grade all cheats on all questions.

    Args:
        grader: As training uses it.
        questions: Of one set.
        limit: Examples kept for each kind.

    Returns:
        A tally for each kind, and the names of the questions that some copied answer solves.
    """
    common = Counter(form for at in questions for form in at.gold).most_common(8)
    frequent = list(dict.fromkeys(["0", "1", "2", "-1", *(form for form, _ in common)]))
    tallies: dict[str, Tally] = {}
    gamed: dict[str, None] = {}
    waiting: list[tuple[Attacked, Cheat]] = []
    for index, at in enumerate(questions):
        others = (
            [questions[(index + step) % len(questions)].gold[0] for step in (1, 7, 31)] if len(questions) > 31 else []
        )
        waiting += [(at, cheat) for cheat in cheats(at, others, frequent)]
        if len(waiting) >= CHUNK or index == len(questions) - 1:
            items = [
                GradeItem(cheat.response, one.gold, question=one.question, extractor=cheat.extractor)
                for one, cheat in waiting
            ]
            for (one, cheat), outcome in zip(waiting, grader.grade_batch(items), strict=True):
                tally = tallies.setdefault(cheat.kind, Tally())
                tally.tried += 1
                if not outcome.right:
                    continue
                tally.paid += 1
                stated = cheat.kind in COPIED and states(outcome.extracted or "")
                tally.stated += stated
                if cheat.kind in COPIED:
                    gamed[one.name] = None
                if not stated and len(tally.examples) < limit:
                    tally.examples.append((outcome.extracted or "", one.gold[0]))
            waiting = []
    return tallies, list(gamed)


def states(answer: str) -> bool:
    """Whether a copied answer is a value, or a name with its value: the question states its answer then."""
    pieces = sides(canonical(answer))
    return pieces is None or is_name(pieces[0]) or is_name(pieces[-1]) or constant(pieces[0]) is not None


def show(tallies: dict[str, Tally], gamed: list[str], count: int) -> Iterator[str]:
    """Lines of a report, Markdown."""
    tried = sum(tally.tried for tally in tallies.values())
    yield f"{tried} answers that solve nothing, on {count} questions"
    yield ""
    yield "| kind | answers | paid | rate | paid where the question does not state it |"
    yield "|---|---|---|---|---|"
    for kind, tally in sorted(tallies.items(), key=lambda pair: pair[0]):
        rate = f"{tally.paid / tally.tried:.3%}"
        yield f"| {kind} | {tally.tried} | {tally.paid} | {rate} | {tally.paid - tally.stated} |"
    yield ""
    for kind, tally in sorted(tallies.items(), key=lambda pair: pair[0]):
        yield from (f"{kind}: {answer!r} was paid for {gold!r}" for answer, gold in tally.examples)
    yield f"{len(gamed)} questions ({len(gamed) / count:.1%}) are solved by copying from them"
