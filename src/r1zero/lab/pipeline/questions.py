"""Splits one question set into questions of RL and held-out ones, before anything is trained."""

from __future__ import annotations

import json
import random
from pathlib import Path

from r1zero.batch import Question
from r1zero.config import BadGold, DataConfig
from r1zero.data.overlap import overlap
from r1zero.data.prompts import load_questions
from r1zero.errors import UserError
from r1zero.lab.pipeline.stages import heldout_file, questions_file
from r1zero.launch.files import write_whole


def split(questions: list[Question], heldout: int, seed: int) -> tuple[list[Question], list[Question], int]:
    """Draw the held-out questions, and leave out of the others what is the same question (trap 36).

    Args:
        questions: all of them.
        heldout: how many are held out.
        seed: equal seeds hold out equal questions.

    Returns:
        the questions of RL, the held-out ones, and how many were left out of the former because a held-out
        question has its words, or most of them.

    Raises:
        UserError: there are too few.
    """
    if not 0 < heldout < len(questions):
        raise UserError(f"heldout={heldout}: hold out at least 1 of the {len(questions)} questions and not all of them")
    order = list(range(len(questions)))
    random.Random(f"heldout/{seed}").shuffle(order)
    held = [questions[index] for index in sorted(order[:heldout])]
    rest = [questions[index] for index in sorted(order[heldout:])]
    kept = []
    for question in rest:
        kept.append(question)
    while matches := overlap(kept, held).matches:
        known = {match.train for match in matches}
        kept = [question for index, question in enumerate(kept) if index not in known]
    if not kept:
        raise UserError(f"heldout={heldout} leaves no question for RL: every other one is like a held-out one")
    return kept, held, len(rest) - len(kept)


def prepare(data: DataConfig, heldout: int, seed: int, folder: Path) -> tuple[int, int, int]:
    """Write ``questions/train.jsonl`` and ``questions/heldout.jsonl`` unless they hold the same already.

    Returns:
        questions of RL, held-out questions, left out (see :func:`split`).

    Raises:
        UserError: the set can't be read, or the folder holds other questions.
    """
    data.bad_gold = BadGold.drop
    kept, held, dropped = split(load_questions(data, seed=seed), heldout, seed)
    for file, chosen in ((questions_file(folder), kept), (heldout_file(folder), held)):
        text = "".join(
            json.dumps({"problem": q.text, "answer": q.gold[0] if len(q.gold) == 1 else list(q.gold)}) + "\n"
            for q in chosen
        )
        if file.is_file() and file.read_text() != text:
            raise UserError(f"{file} holds other questions than data and heldout={heldout} give: choose another name=")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    return len(kept), len(held), dropped
