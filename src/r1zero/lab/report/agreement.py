"""The miniature run twice, on another machine or with other threads: which verdicts and which figures are the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.errors import UserError, first_line
from r1zero.lab.report.verdicts import Verdict

FIGURES: dict[str, tuple[tuple[str, ...], bool]] = {
    "accuracy and lengths before RL": (("eval/",), False),
    "accuracy and lengths after RL": (("eval/",), True),
    "rewards and lengths of the first step": (("reward/mean", "reward/std", "length/"), False),
    "rewards and lengths of the last step": (("reward/mean", "reward/std", "length/"), True),
    "loss, gradient norm and entropy of the first step": (("loss/", "policy/grad_norm", "policy/entropy"), False),
    "loss, gradient norm and entropy of the last step": (("loss/", "policy/grad_norm", "policy/entropy"), True),
}
"""{what is compared: (how its columns of metrics.csv begin, whether the last value counts, not the first)}."""


def verdicts_of(outputs: Path) -> dict[str, dict[str, str]]:
    """{key: a verdict's word and figures} of the miniature in an outputs folder; ``UserError`` where there is none."""
    file = outputs / "miniature" / "verdicts.json"
    try:
        return {v["key"]: {name: v[name] for name in ("word", "measured")} for v in json.loads(file.read_text())}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file} holds no verdicts; name the `outputs` folder of a miniature that has run: {first_line(error)}"
        ) from error


def agreement(found: Sequence[Verdict], folders: Sequence[Path], other: Path) -> list[str]:
    """Lines that say what a second run of the miniature shares with this one.

    Args:
        found: this run's verdicts.
        folders: of this run's points, relative to the working directory, ``outputs/mini/...``.
        other: the other run's ``outputs`` folder.

    Raises:
        UserError: the other folder has no verdicts.
    """
    there = verdicts_of(other)
    lines, same = ["here / there, where they differ:"], 0
    for here in found:
        theirs = there.get(here.key, {"word": "not in the other report", "measured": ""})
        same += here.word == theirs["word"]
        said = ((here.word, theirs["word"]), (here.measured, theirs["measured"]))
        lines.append(f"({here.key}) " + ": ".join(one if one == two else f"{one} / {two}" for one, two in said))
    twins = [(folder, other.joinpath(*folder.parts[1:])) for folder in folders]
    read = {str(two): (_table(one), _table(two)) for one, two in twins if one.is_dir() and two.is_dir()}
    tables = [(one, two) for one, two in read.values() if one is not None and two is not None]
    lines.append(f"{same} of {len(found)} verdicts are the same; {len(tables)} runs are in both, their figures:")
    for what, (columns, last) in FIGURES.items():
        pairs = [(_figures(one, columns, last), _figures(two, columns, last)) for one, two in tables]
        pairs = [pair for pair in pairs if any(pair)]
        equal = sum(one == two for one, two in pairs)
        lines.append(f"  {what}: equal to the last bit in {equal} of {len(pairs)} runs")
    if unread := [folder for folder, pair in read.items() if pair[0] is None or pair[1] is None]:
        lines.append(f"  left out, without a metrics.csv that can be read here or there: {', '.join(unread)}")
    return lines


def _table(folder: Path) -> pd.DataFrame | None:
    try:
        return pd.read_csv(folder / "metrics.csv")
    except (OSError, ValueError):  # pandas' own are of these
        return None


def _figures(table: pd.DataFrame, columns: tuple[str, ...], last: bool) -> dict[str, Any]:
    """{column: its first or last value}; times are left out."""
    names = [name for name in table if name.startswith(columns) and not name.endswith("seconds")]
    return {name: table[name].dropna().iloc[-1 if last else 0] for name in names if table[name].notna().any()}
