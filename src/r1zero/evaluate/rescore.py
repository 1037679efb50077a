"""Grade the responses of a finished evaluation again, without generating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.errors import UserError
from r1zero.evaluate.store import grade_columns, question_of
from r1zero.launch.arguments import stored_overrides
from r1zero.launch.files import read_json
from r1zero.launch.paths import given_path, literal, quoted
from r1zero.launch.record import made_by
from r1zero.reward.grader import Grader
from r1zero.rollout.scoring import grade_texts


def expand_rescore(arguments: list[str]) -> list[str]:
    """Bring the command line of ``rescore=<folder>`` back, the new arguments over it.

    The new results go into a folder below: ``<folder>/rescored/<time>``.

    Raises:
        UserError: there is no finished or interrupted evaluation in the folder.
    """
    value = given_path([literal(a) for a in arguments], "rescore")
    if not value or any(a.startswith("hydra.run.dir=") for a in arguments):
        return arguments
    folder = Path(value)
    stored = folder / ".hydra" / "overrides.yaml"
    if not stored.is_file() or not (folder / "responses").is_dir():
        raise UserError(f"rescore={folder}: this is not the folder of an evaluation (it needs .hydra and responses)")
    if (made := made_by(folder)) not in ("", "evaluate"):
        raise UserError(f"rescore={folder}: this is a folder of {made}.py; only evaluations are graded again")
    new = {argument.partition("=")[0] for argument in arguments}
    old = [a for a in stored_overrides(stored) if a.partition("=")[0] not in new | {"resume"}]
    return [*old, *(a for a in arguments if not a.startswith("rescore=")), f"rescore={quoted(folder)}",
            "hydra.run.dir='${rescore}/rescored/${now:%Y-%m-%d_%H-%M-%S}'"]  # fmt: skip


def regrade(table: pd.DataFrame, grader: Grader) -> tuple[pd.DataFrame, int]:
    """Grade every response of a table again: the table with new verdicts, and how many right/wrong changed."""
    items = [
        (question_of(row), row.response, row.finish_reason == "length", int(row.tokens)) for row in table.itertuples()
    ]
    new = pd.DataFrame([grade_columns(outcome) for outcome in grade_texts(grader, items)], index=table.index)
    changed = int((new["right"].astype(bool) != table["right"].astype(bool)).sum())
    return table.assign(**{name: new[name] for name in new}), changed


def stored_results(folder: Path) -> dict[str, Any]:
    """results.json of the folder that is graded again.

    Raises:
        UserError: the evaluation has not got as far.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(f"rescore={folder}: it has no results.json yet; finish it with resume={folder}")
    return read_json(path)
