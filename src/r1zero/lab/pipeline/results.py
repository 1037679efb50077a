"""The pipeline's table: accuracy before, after pretraining and after RL, with intervals; as text, JSON, CSV and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from r1zero.evaluate.intervals import LEVEL, resampled_means
from r1zero.evaluate.results import number, percent, share
from r1zero.lab.pipeline.stages import Stage
from r1zero.launch.files import read_json, write_json
from r1zero.launch.run_folder import stack_versions
from r1zero.launch.seeding import derive_seed
from r1zero.launch.sweep import clock
from r1zero.train import plotting as style

LABELS = {"before": "before", "pretrained": "after pretraining", "trained": "after RL"}
RESAMPLES = 2000


def collect(stages: Sequence[Stage], seconds: dict[str, dict[str, float]], seed: int) -> dict[str, Any]:
    """What results.json holds.

    Args:
        stages: all of them, finished.
        seconds: {"wall", "cpu"} of each stage, over all its starts.
        seed: of the resamples.
    """
    evaluations = {s.name: s.folder for s in stages if s.kind == "evaluate"}
    read = {name: read_json(folder / "results.json") for name, folder in evaluations.items()}
    answers = {name: pd.read_parquet(folder / "responses.parquet") for name, folder in evaluations.items()}
    rows: list[dict[str, Any]] = []
    for place in read["before"]["sets"]:
        earlier: str | None = None
        for name, result in read.items():
            found = result["sets"][place]
            kept = ("questions", "samples", "accuracy", "length", "length_median", "formatted_frac", "truncated_frac")
            row = {"set": place, "state": name, **{key: found[key] for key in kept}, "gain": None}
            if earlier is not None:
                row["gain"] = gain(answers[earlier], answers[name], place, seed)
            rows.append(row)
            earlier = name
    summaries = {s.kind: _summary(s.folder) for s in stages if s.kind != "evaluate"}
    heldout = summaries["pretrain"].get("heldout_loss", {})
    return {
        "kind": "pipeline",
        "rows": rows,
        "sampling": read["before"]["sampling"],
        "template": read["before"]["template"],
        "seconds": {stage.name: seconds.get(stage.name, {"wall": 0.0, "cpu": 0.0}) for stage in stages},
        "pretrain": {"tokens": summaries["pretrain"].get("tokens"), "heldout_loss": heldout,
                     "tokens_per_second": summaries["pretrain"].get("tokens_per_second")},
        "train": {"rollout_steps": summaries["train"].get("rollout_steps"), "tokens": summaries["train"].get("tokens")},
        "commands": {stage.name: stage.command() for stage in stages},
        "versions": stack_versions(),
    }  # fmt: skip


def gain(earlier: pd.DataFrame, later: pd.DataFrame, place: str, seed: int) -> dict[str, float]:
    """Difference of two accuracies with a 95 % interval: the same questions are drawn again on both sides."""
    a, b = (_by_question(table, place) for table in (earlier, later))
    change = (b - a).dropna().to_numpy(dtype=np.float64)[:, None]
    draws = resampled_means(change, RESAMPLES, derive_seed(seed, "gain", place), prior=0.1, lowest=-1.0)
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(draws, (tail, 1.0 - tail))
    return {"value": float(change.mean()), "low": float(low), "high": float(high)}


def _by_question(table: pd.DataFrame, place: str) -> pd.Series:
    return table[table["set"] == place].groupby("question")["right"].mean()


def _summary(folder: Path) -> dict[str, Any]:
    file = folder / "summary.json"
    return read_json(file) if file.is_file() else {}


def results_table(results: dict[str, Any]) -> Table:
    """The table that is printed."""
    sampling = results["sampling"]
    how = "greedy" if sampling["temperature"] == 0 else (
        f"{sampling['n']} sample(s) a question at temperature {sampling['temperature']:g}"
    )  # fmt: skip
    table = Table(
        title=f"template {results['template']}, {how}, {sampling['max_tokens']} tokens at most",
        caption="accuracy in % with 95 % intervals over questions; gain over the row above, by the same questions",
    )
    for column in ("set", "model", "questions", "accuracy", "gain", "mean length", "in a box", "cut off"):
        table.add_column(column, justify="left" if column in ("set", "model") else "right")
    rows = results["rows"]
    for at, row in enumerate(rows):
        last = at + 1 == len(rows) or rows[at + 1]["set"] != row["set"]
        first = at == 0 or rows[at - 1]["set"] != row["set"]
        table.add_row(
            row["set"] if first else "",
            LABELS[row["state"]],
            str(row["questions"]),
            percent(row["accuracy"]),
            "" if row["gain"] is None else signed(row["gain"]),
            number(row["length"]),
            share(row["formatted_frac"]),
            share(row["truncated_frac"]),
            end_section=last,
        )
    return table


def signed(estimate: dict[str, float]) -> str:
    """A difference of shares in percentage points: "+3.1 [+0.5, +5.6]"."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def times_line(results: dict[str, Any], titles: dict[str, str]) -> str:
    """Time of each stage, and of all; the processors' own time shows what other load there was."""
    seconds = results["seconds"]
    parts = [f"{titles[name]} {clock(took['wall'])}" for name, took in seconds.items()]
    wall, cpu = (sum(took[key] for took in seconds.values()) for key in ("wall", "cpu"))
    return f"time: {', '.join(parts)}; together {clock(wall)}, of processors {clock(cpu)}"


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write results.json, accuracy.csv, .png and .svg; returns the files a reader opens."""
    write_json(folder / "results.json", results)
    flat = []
    for row in results["rows"]:
        values = {key: value for key, value in row.items() if key not in ("accuracy", "gain")}
        for key in ("accuracy", "gain"):
            estimate = row[key] or {"value": None, "low": None, "high": None}
            values |= {key: estimate["value"], f"{key}_low": estimate["low"], f"{key}_high": estimate["high"]}
        flat.append(values)
    return [folder / "results.json", draw(results, pd.DataFrame(flat), folder), folder / "accuracy.csv"]


def draw(results: dict[str, Any], numbers: pd.DataFrame, folder: Path) -> Path:
    """Accuracy of the three states with intervals, one panel per set; the PNG's path."""
    places = list(dict.fromkeys(row["set"] for row in results["rows"]))
    figure, axes = style.panels(1, len(places), width=3.9, height=3.4)
    for axis, place in zip(axes, places, strict=True):
        rows = [row for row in results["rows"] if row["set"] == place]
        top = 0.0
        for x, row in enumerate(rows):
            value, low, high = (100 * row["accuracy"][key] for key in ("value", "low", "high"))
            axis.bar(x, value, 0.62, color=(style.GREY, style.ORANGE, style.BLUE)[x])
            axis.errorbar(
                x, value, yerr=[[max(0.0, value - low)], [max(0.0, high - value)]], color="#333333", capsize=4
            )
            axis.annotate(f"{value:.1f}", (x, high), (0, 3), textcoords="offset points", ha="center", fontsize=9)
            top = max(top, high)
        axis.set_xticks(range(len(rows)), [LABELS[row["state"]].replace("after ", "after\n") for row in rows])
        axis.set_ylim(0, max(1.0, 1.15 * top))
        axis.set_title(f"{place}, {rows[0]['questions']} questions")
        axis.grid(axis="x", visible=False)
        axis.set_axisbelow(True)
    axes[0].set_ylabel("accuracy in %, with 95 % interval")
    return style.save(figure, numbers, folder, "accuracy")
