"""Figures of a table of graded responses: accuracy, pass@k, majority vote, lengths, per level and subject."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from r1zero.errors import UserError
from r1zero.evaluate.intervals import Array, Estimate, average, estimates, g_pass_at_k, pass_at_k, resampled_means
from r1zero.evaluate.vote import answer_groups, majority
from r1zero.launch.seeding import derive_seed
from r1zero.reward.grader import Grader
from r1zero.reward.outcome import Status

UNFORMATTED = (Status.no_answer.value, Status.unformatted.value, Status.truncated.value)
AVERAGE = "average"
SHARES = (0.5, 1.0)
"""Shares of right responses for which G-Pass@k is given."""


@dataclass(frozen=True)
class SetFigures:
    """Figures of one set; ``values`` and ``draws`` hold the columns of :func:`per_question`."""

    summary: dict[str, Any]
    values: Array
    draws: Array


def add_answer_groups(table: pd.DataFrame, grader: Grader) -> pd.DataFrame:
    """Add the column ``group``: the number of a response's answer among those to its question, -1 for none."""
    table = table.sort_values(["question", "sample"], ignore_index=True)
    answers = [
        [None if answer is None or answer != answer else str(answer) for answer in rows]
        for _, rows in table.groupby("question", sort=True)["extracted"]
    ]
    return table.assign(group=[number for row in answer_groups(grader, answers) for number in row])


def whole_questions(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """Rows of the questions that have all their n responses."""
    return table[table.groupby("question")["sample"].transform("size") == n]


def per_question(table: pd.DataFrame, n: int) -> Array:
    """[Q, 2 + 3 n]: accuracy, majority vote, pass@1 ... pass@n, and G-Pass@1 ... @n for each of ``SHARES``.

    One row for each question, in the order of questions.

    Raises:
        UserError: A question has not n responses.
    """
    table = table.sort_values(["question", "sample"])
    sizes = table.groupby("question").size()
    if (sizes != n).any():
        raise UserError(f"question {sizes.index[sizes != n][0]} has {sizes[sizes != n].iloc[0]} responses, not {n}")
    right = table["right"].to_numpy(dtype=np.float64).reshape(-1, n)
    groups = table["group"].to_numpy().reshape(-1, n)
    votes = [majority(g, r) for g, r in zip(groups.tolist(), right.tolist(), strict=True)]
    stable = [g_pass_at_k(right.sum(1), n, share) for share in SHARES]
    return np.column_stack([right.mean(1), np.array(votes, dtype=np.float64), pass_at_k(right.sum(1), n), *stable])


def summarize(name: str, table: pd.DataFrame, n: int, resamples: int, seed: int) -> SetFigures:
    """All figures of one set.

    Args:
        name: The set; its resamples have a seed of their own.
        table: Rows of :func:`r1zero.evaluate.store.graded_rows` with the column ``group``.
        n: Responses per question.
        resamples: Of the questions, for the intervals.
        seed: The run's seed.
    """
    values = per_question(table, n)
    draws = resampled_means(values, resamples, derive_seed(seed, "bootstrap", name))
    found = estimates(values, draws)
    summary = {"questions": len(values), "samples": n, **_named(found, n), **lengths(table)}
    summary["by"] = {column: _by(table, column, n, resamples, seed) for column in ("level", "subject")}
    return SetFigures(summary, values, draws)


def average_of(sets: list[SetFigures]) -> dict[str, Any]:
    """The unweighted mean over sets; a set of 30 questions counts as much as one of 675."""
    n = sets[0].summary["samples"]
    summary: dict[str, Any] = {"sets": len(sets), **_named(average([(s.values, s.draws) for s in sets]), n)}
    for key in ("length", "length_median", "truncated_frac", "formatted_frac"):
        summary[key] = float(np.mean([s.summary[key] for s in sets]))
    return summary


def lengths(table: pd.DataFrame) -> dict[str, float | None]:
    """Lengths in tokens, and shares of truncated and formatted responses; None where there is nothing to average."""
    tokens, right = table["tokens"], table["right"].astype(bool)
    return {
        "length": _mean(tokens),
        "length_median": _none_if_nan(float(tokens.median())),
        "length_correct": _mean(tokens[right]),
        "length_incorrect": _mean(tokens[~right]),
        "truncated_frac": _mean(table["finish_reason"] == "length"),
        "formatted_frac": _mean(~table["status"].isin(UNFORMATTED)),
    }


def _named(found: list[Estimate], n: int) -> dict[str, Any]:
    accuracy, vote, *rest = (estimate.as_dict() for estimate in found)
    passes, *stable = (
        {str(k): one for k, one in enumerate(rest[start : start + n], start=1)} for start in range(0, len(rest), n)
    )
    named = {f"{share:g}": one for share, one in zip(SHARES, stable, strict=True)}
    return {"accuracy": accuracy, "majority": vote, "pass@k": passes, "g-pass@k": named}


def _by(table: pd.DataFrame, column: str, n: int, resamples: int, seed: int) -> dict[str, Any]:
    """Accuracy per value of a column; nothing where the set has none."""
    result = {}
    for value, rows in table[table[column] != ""].groupby(column, sort=True):
        share = per_question(rows, n)[:, :1]
        draws = resampled_means(share, resamples, derive_seed(seed, "bootstrap", column, str(value)))
        result[str(value)] = {"questions": len(share), "accuracy": estimates(share, draws)[0].as_dict()}
    return result


def _mean(values: pd.Series) -> float | None:
    return _none_if_nan(float(values.mean())) if len(values) else None


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
