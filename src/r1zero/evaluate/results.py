"""results.json of an evaluation, and the table that is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from r1zero.evaluate.metrics import AVERAGE, SetFigures, average_of, summarize, whole_questions
from r1zero.reward.health import summarise as verifier_health


def build_results(
    tables: dict[str, pd.DataFrame], n: int, resamples: int, seed: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """Everything results.json holds.

    Args:
        tables: Graded responses of each set, with the column ``group``.
        n: Responses per question.
        resamples: Resamples of the questions, for the intervals.
        seed: The run's seed.
        facts: What the run says of itself: model, template, sampling, what is missing.
    """
    from r1zero.evaluate.store import outcomes_of

    figures: dict[str, SetFigures] = {}
    for name, table in tables.items():
        whole = whole_questions(table, n)
        if len(whole):
            figures[name] = summarize(name, whole, n, resamples, seed)
            figures[name].summary["verifier"] = verifier_health(outcomes_of(whole))
    results: dict[str, Any] = {"kind": "evaluation", **facts, "sets": {k: f.summary for k, f in figures.items()}}
    results[AVERAGE] = average_of(list(figures.values())) if figures else None
    return results


def results_table(results: dict[str, Any], pass_k: Sequence[int] = ()) -> Table:
    """The figures as a table: one row per set, then the average."""
    n = results["sampling"]["n"]
    shown = [k for k in pass_k or ([n] if n > 1 else []) if k > 1]
    title = f"{model_title(results['model'])}, template {results['template']}, "
    title += "greedy" if results["sampling"]["temperature"] == 0 else (
        f"{n} sample(s) at temperature {results['sampling']['temperature']:g}"
    )  # fmt: skip
    table = Table(title=title, caption="accuracy in %, with 95 % intervals over questions; lengths in tokens")
    table.add_column("set")
    columns = ["questions", f"avg@{n}" if n > 1 else "accuracy"]
    columns += [f"pass@{k}" for k in shown] + (["majority"] if n > 1 else [])
    columns += ["length", "median", "right", "wrong", "truncated", "formatted"]
    for column in columns:
        table.add_column(column, justify="right")
    rows = dict(results["sets"])
    if len(rows) > 1:
        rows[AVERAGE] = results[AVERAGE]
    for name, row in rows.items():
        cells = [str(row.get("questions", "")), percent(row["accuracy"])]
        cells += [percent(row["pass@k"][str(k)]) for k in shown] + ([percent(row["majority"])] if n > 1 else [])
        cells += [number(row.get(key)) for key in ("length", "length_median", "length_correct", "length_incorrect")]
        cells += [share(row["truncated_frac"]), share(row["formatted_frac"])]
        table.add_row(name, *cells, end_section=name == list(results["sets"])[-1])
    return table


def model_title(model: dict[str, Any]) -> str:
    """What to call a model: its option's name, or the path where the option says nothing."""
    return str(model["path"] if model["name"] in ("folder", "server") else model["name"])


def percent(estimate: dict[str, float]) -> str:
    """A share with its interval: "33.1 [29.0, 37.2]"."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def number(value: float | None) -> str:
    """A length; "-" where there is none."""
    return "-" if value is None else f"{value:.0f}"


def share(value: float | None) -> str:
    """A share in percent; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.1f}%"
