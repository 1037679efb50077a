"""The matrix of a study: accuracy by model and template with intervals, as a table, CSV, JSON and a heat map."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from r1zero.errors import UserError
from r1zero.launch.files import read_json, whole, write_json
from r1zero.launch.run_folder import shown


@dataclass(frozen=True)
class Cell:
    """Accuracy of one model in one template, a share, with its 95 % interval over questions."""

    value: float
    low: float
    high: float
    questions: int

    @property
    def text(self) -> str:
        """In percent: value [low, high]."""
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Matrix:
    """Cells by (state, template); ``labels`` names the states."""

    cells: dict[tuple[str, str], Cell]
    labels: dict[str, str]
    templates: list[str]
    benchmark: str

    def best(self, state: str) -> str | None:
        """The template with the highest accuracy of a state, the first of equal ones; None without a cell."""
        here = [t for t in self.templates if (state, t) in self.cells]
        return max(here, key=lambda t: self.cells[state, t].value, default=None)

    def apart(self, state: str) -> bool:
        """Whether the best template's interval lies above those of all others."""
        best = self.best(state)
        others = [cell for (s, t), cell in self.cells.items() if s == state and t != best]
        return best is not None and bool(others) and self.cells[state, best].low > max(c.high for c in others)


def read_matrix(folders: dict[tuple[str, str], Path], labels: dict[str, str]) -> Matrix:
    """Cells from the folders of finished evaluations; those that are missing are left out.

    Raises:
        UserError: the evaluations have not one question set, the same in all of them.
    """
    cells, sets = {}, set()
    for key, folder in folders.items():
        file = folder / "results.json"
        if not file.is_file():
            continue
        found = read_json(file)["sets"]
        sets.add(tuple(found))
        (name, *more) = found
        if more or len(sets) > 1:
            raise UserError(f"evaluation: the matrix shows one question set, and {folder} has {', '.join(found)}")
        estimate = found[name]["accuracy"]
        cells[key] = Cell(estimate["value"], estimate["low"], estimate["high"], found[name]["questions"])
    templates = list(dict.fromkeys(template for _, template in folders))
    return Matrix(cells, labels, templates, next(iter(sets))[0] if sets else "")


def write_matrix(matrix: Matrix, folder: Path, title: str) -> list[Any]:
    """Write ``matrix.csv``, ``.json``, ``.png`` and ``.svg``; returns what to print: the table, then where they are."""
    rows = [
        {"state": state, "label": matrix.labels[state], "template": template, "accuracy": cell.value, "low": cell.low,
         "high": cell.high, "questions": cell.questions}
        for (state, template), cell in matrix.cells.items()
    ]  # fmt: skip
    with whole(folder / "matrix.csv") as aside, aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    states = {
        state: {"label": label, "best_template": matrix.best(state), "interval_apart": matrix.apart(state)}
        for state, label in matrix.labels.items()
    }
    content = {"kind": "study", "name": title, "benchmark": matrix.benchmark, "states": states, "cells": rows}
    write_json(folder / "matrix.json", content)
    picture = draw(matrix, folder, title)
    lines: list[Any] = [table_of(matrix, title)]
    for state, label in matrix.labels.items():
        if (best := matrix.best(state)) is not None:
            how = "alone, its interval is above all others" if matrix.apart(state) else "not clear of the next one"
            lines.append(f"  {label}: best in template {best} ({how})")
    for name, path in (("matrix", folder / "matrix.csv"), ("picture", picture)):
        lines.append(f"  {name:8s} {shown(path)}")
    return lines


def table_of(matrix: Matrix, title: str) -> Table:
    """The matrix for the console; the best template of each model is bold."""
    table = Table(title=f"{title}: accuracy in % on {matrix.benchmark}, greedy, 95 % interval over questions")
    table.add_column("pretraining text")
    for template in matrix.templates:
        table.add_column(f"template {template}", justify="right")
    for state, label in matrix.labels.items():
        cells = []
        for template in matrix.templates:
            cell = matrix.cells.get((state, template))
            best = "bold" if cell and template == matrix.best(state) else ""
            cells.append(Text(cell.text if cell else "-", style=best))
        table.add_row(label, *cells)
    return table


def draw(matrix: Matrix, folder: Path, title: str) -> Path:
    """The heat map: a row per model, a column per template, value and interval in each cell."""
    import numpy as np

    from r1zero.train.plotting import plt

    states = list(matrix.labels)
    values = np.full((len(states), len(matrix.templates)), np.nan)
    figure, axis = plt.subplots(
        figsize=(2.6 + 1.5 * len(matrix.templates), 1.5 + 0.8 * len(states)), layout="constrained"
    )
    for (state, template), cell in matrix.cells.items():
        row, column = states.index(state), matrix.templates.index(template)
        values[row, column] = 100 * cell.value
        mark = "bold" if matrix.best(state) == template else "normal"
        colour = "white" if cell.value > 0.55 else "black"
        axis.text(column, row - 0.1, f"{100 * cell.value:.1f}", ha="center", va="center", color=colour, weight=mark)
        interval = f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
        axis.text(column, row + 0.22, interval, ha="center", va="center", color=colour, fontsize=8)
    image = axis.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axis.set_xticks(range(len(matrix.templates)), matrix.templates)
    axis.set_yticks(range(len(states)), [matrix.labels[state] for state in states])
    axis.set(
        xlabel="template of the evaluation", ylabel="pretraining text", title=f"Accuracy in % on {matrix.benchmark}"
    )
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axis, label="accuracy in %")
    path = folder / "matrix.png"
    with whole(path) as aside:
        figure.savefig(aside, dpi=110, format="png")
    with whole(folder / "matrix.svg") as aside:
        figure.savefig(aside, format="svg", metadata={"Date": None})
    plt.close(figure)
    return path
