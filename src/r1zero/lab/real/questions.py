r"""ASDiv questions that a formula answers, in three parts: one gives the form, one is for RL, one is held out.

The form is a worked answer of a dozen tokens, made from the set's ``formula`` column (``7+2=9``, so ``\boxed{9}``).
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1zero.batch import Question
from r1zero.data.overlap import overlap
from r1zero.errors import UserError
from r1zero.launch.files import write_whole

NEEDED = ("problem", "answer", "formula")
KINDS = ("Addition", "Subtraction", "Multiplication", "Common-Division", "Sum", "Difference", "TVQ-Final",
         "TVQ-Change", "TVQ-Initial")  # fmt: skip
"""Kinds of operation whose formula is the working itself."""
GRADES = (1, 2, 3, 4)

_WORKING = re.compile(r"[\d+\-*/(). ]+=\s*(\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class Parts:
    """Rows of each part; no question of one is like a question of another."""

    form: list[dict[str, Any]]
    train: list[dict[str, Any]]
    heldout: list[dict[str, Any]]


def usable(rows: list[dict[str, Any]], kinds: tuple[str, ...], grades: tuple[int, ...]) -> list[dict[str, Any]]:
    """Rows of these kinds and grades whose formula is a plain calculation that ends in the answer.

    Raises:
        UserError: a column is missing.
    """
    for name in NEEDED:
        if rows and name not in rows[0]:
            raise UserError(f"--data has no column '{name}'; columns are {', '.join(rows[0])}")
    found = []
    for row in rows:
        fits = row.get("kind", kinds[0]) in kinds and int(row.get("grade", grades[0])) in grades
        working = _WORKING.fullmatch(str(row["formula"])) if fits else None
        if working and working[1] == str(row["answer"]).strip():
            found.append(row)
    return found


def parted(rows: list[dict[str, Any]], form: int, heldout: int, seed: int) -> Parts:
    """Draw the parts; what is like a question of a part drawn before is left out of the next.

    Args:
        rows: usable rows.
        form: questions that give the form.
        heldout: questions of the evaluations.
        seed: equal seeds draw equal parts.

    Raises:
        UserError: nothing is left for RL.
    """
    order = list(rows)
    random.Random(f"real/{seed}").shuffle(order)
    held, rest = order[:heldout], _unlike(order[heldout:], order[:heldout])
    taught, train = rest[:form], _unlike(rest[form:], rest[:form])
    if not taught or not train or len(held) < heldout:
        raise UserError(f"{len(rows)} usable questions are too few for --form {form} and --heldout {heldout}")
    return Parts(taught, train, held)


def _unlike(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose question none of the others has, nor most of its words (trap 36)."""
    theirs = [Question(text=row["problem"], gold=(str(row["answer"]),), source="asdiv", row=0) for row in others]
    kept = rows
    while True:
        mine = [Question(text=row["problem"], gold=(str(row["answer"]),), source="asdiv", row=0) for row in kept]
        known = {match.train for match in overlap(mine, theirs).matches}
        if not known:
            return kept
        kept = [row for index, row in enumerate(kept) if index not in known]


def worked(row: dict[str, Any]) -> str:
    r"""The worked answer that the form is learned from: ``7+2=9, so \boxed{9}``."""
    formula = re.sub(r"\s+", "", str(row["formula"]))
    return f"{formula}, so \\boxed{{{str(row['answer']).strip()}}}"


def write(parts: Parts, folder: Path) -> dict[str, Path]:
    """Write form.jsonl, train.jsonl and heldout.jsonl unless they are there already.

    Raises:
        UserError: the folder holds other questions.
    """
    files = {}
    for name, rows in vars(parts).items():
        lines = (
            {"problem": row["problem"], "answer": worked(row) if name == "form" else str(row["answer"]).strip()}
            for row in rows
        )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        file = folder / f"{name}.jsonl"
        if file.is_file() and file.read_text() != text:
            raise UserError(f"{file} holds other questions: give another --out")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
        files[name] = file
    return files
