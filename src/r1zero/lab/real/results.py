"""The table of `make real`: accuracy before, with the form, and after RL by either algorithm, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r1zero.evaluate.intervals import estimates, resampled_means
from r1zero.launch.files import write_json, write_whole
from r1zero.launch.seeding import derive_seed

RESAMPLES = 2000
EXCERPTS = 10


def read(folders: Sequence[Path]) -> pd.DataFrame:
    """Responses of the evaluations of one state, all seeds together."""
    return pd.concat([pd.read_parquet(folder / "responses.parquet").assign(run=str(folder)) for folder in folders])


def by_question(table: pd.DataFrame) -> pd.Series:
    """Share of right samples of each question, over all seeds."""
    return table.groupby("question")["right"].mean()


def estimate(values: np.ndarray, name: str, lowest: float = 0.0) -> dict[str, float]:
    """Mean over questions with its 95 % interval by resampling questions."""
    draws = resampled_means(values[:, None], RESAMPLES, derive_seed(0, "real", name), prior=0.1, lowest=lowest)
    return estimates(values[:, None], draws)[0].as_dict()


def collect(states: dict[str, Sequence[Path]]) -> dict[str, Any]:
    """What results.json holds: a row per state, and the gains over the state with the form, by the same questions.

    Args:
        states: evaluation folders by state, in the order of the table: before, form, then one per algorithm.
    """
    tables = {name: read(folders) for name, folders in states.items()}
    rows = []
    for name, table in tables.items():
        rates = by_question(table)
        wrong = table[~table["right"]]
        row: dict[str, Any] = {
            "state": name, "evaluations": len(states[name]), "questions": len(rates), "samples": len(table),
            "accuracy": estimate(rates.to_numpy(dtype=np.float64), name),
            "length_right": float(table[table["right"]]["tokens"].mean()),
            "length_wrong": float(wrong["tokens"].mean()),
            "truncated": float((table["finish_reason"] == "length").mean()), "gain": None,
        }  # fmt: skip
        if name not in ("before", "form"):
            change = (rates - by_question(tables["form"])).dropna().to_numpy(dtype=np.float64)
            row["gain"] = estimate(change, f"gain/{name}", lowest=-1.0)
        rows.append(row)
    found: dict[str, Any] = {"kind": "real", "rows": rows, "difference": None, "unfinished": []}
    if {"grpo", "drgrpo"} <= set(tables):
        apart = (by_question(tables["grpo"]) - by_question(tables["drgrpo"])).dropna().to_numpy(dtype=np.float64)
        found["difference"] = estimate(apart, "grpo - drgrpo", lowest=-1.0)
    return found


def excerpts(before: pd.DataFrame, after: pd.DataFrame, count: int = EXCERPTS) -> list[dict[str, Any]]:
    """The first sample of each of the first questions, before and after: chosen by place, not by what they say."""
    out = []
    for question in sorted(set(before["question"]) & set(after["question"]))[:count]:
        a, b = (table[table["question"] == question].iloc[0] for table in (before, after))
        out.append(
            {"question": a["text"], "gold": list(a["gold"]), "before": a["response"], "before_right": bool(a["right"]),
             "after": b["response"], "after_right": bool(b["right"])}
        )  # fmt: skip
    return out


def markdown(found: dict[str, Any], read_out: Sequence[dict[str, Any]]) -> str:
    """The table and the excerpts as Markdown."""
    lines = [
        "| | accuracy, % [95 % interval] | gain over the form | right answers, tokens | wrong | cut off |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        gained = _percent(row["gain"], "+.1f") if row["gain"] else ""
        lines.append(
            f"| {row['state']} | {_percent(row['accuracy'], '.1f')} | {gained} | {_tokens(row['length_right'])} "
            f"| {_tokens(row['length_wrong'])} | {100 * row['truncated']:.1f} % |"
        )
    if found["difference"]:
        lines += ["", f"GRPO - Dr. GRPO: {_percent(found['difference'], '+.1f')} points."]
    if found["unfinished"]:
        lines += ["", f"Not finished; evaluations so far: {', '.join(found['unfinished'])}."]
    lines += ["", "## Ten answers before and after", ""]
    for item in read_out:
        marks = ("right" if item[f"{side}_right"] else "wrong" for side in ("before", "after"))
        gold = item["gold"][0] if item["gold"] else ""
        lines += [f"**{item['question'].strip()}** ({gold})", ""]
        for side, mark in zip(("before", "after"), marks, strict=True):
            said = " ".join(str(item[side]).split())
            lines += [f"- {side}, {mark}: `{said[:300].replace('`', chr(39))}`"]
        lines.append("")
    return "\n".join(lines) + "\n"


def write(found: dict[str, Any], read_out: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write results.json and results.md; returns the latter."""
    content = found | {"excerpts": list(read_out)}
    write_json(folder / "results.json", content)
    write_whole(folder / "results.md", markdown(found, read_out))
    return folder / "results.md"


def _tokens(mean: float) -> str:
    """A mean length; "-" where there was no such answer."""
    return f"{mean:.1f}" if mean == mean else "-"


def _percent(value: dict[str, float], pattern: str) -> str:
    a, low, high = (format(100 * value[key], pattern) for key in ("value", "low", "high"))
    return f"{a} [{low}, {high}]"
