"""Fig. 2: accuracy of several systems as bars, a group a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.lab.report.tables import COLUMNS, Line
from r1zero.train import plotting as style


def draw_systems(lines: Sequence[Line], path: Path) -> Path:
    """Draw the bars with 95 % intervals, and the paper's values as diamonds.

    Args:
        lines: evaluations, a bar in every group each.
        path: the PNG; SVG and CSV are written beside it.

    Returns:
        path.
    """
    present = {key for line in lines for key in line.cells}
    keys = [key for key in COLUMNS if key in present and key != "average"] + sorted(present - set(COLUMNS))
    keys += ["average"] if "average" in present else []
    figure, (axis,) = style.panels(1, 1, width=max(5.0, 1.6 + len(keys) * (0.5 + 0.28 * len(lines))), height=4.2)
    width = 0.84 / len(lines)
    rows: list[dict[str, Any]] = []
    for place, line in enumerate(lines):
        _, colour, _ = style.look(line.title, place)
        shown = [(i + (place - (len(lines) - 1) / 2) * width, key, line.cells[key])
                 for i, key in enumerate(keys) if key in line.cells]  # fmt: skip
        at = [x for x, _, _ in shown]
        values = [cell.value for _, _, cell in shown]
        errors = [[max(0.0, cell.value - cell.low) for _, _, cell in shown],
                  [max(0.0, cell.high - cell.value) for _, _, cell in shown]]  # fmt: skip
        axis.bar(at, values, width, color=colour, label=line.title)
        axis.errorbar(at, values, yerr=errors, fmt="none", ecolor="#333333", capsize=2, linewidth=0.9)
        paper = [(x, cell.expected) for x, _, cell in shown if cell.expected is not None]
        if paper:
            axis.plot(*zip(*paper, strict=True), "D", color="black", markerfacecolor="white", markersize=5, zorder=5)
        for x, _, cell in shown:
            axis.annotate(f"{cell.value:.1f}", (x, cell.high), (0, 2), textcoords="offset points", ha="center",
                          fontsize=7)  # fmt: skip
        rows += [{"system": line.title, "benchmark": key, "accuracy": cell.value, "low": cell.low, "high": cell.high,
                  "paper": cell.expected, "verdict": cell.verdict} for _, key, cell in shown]  # fmt: skip
    if any(row["paper"] is not None for row in rows):
        axis.plot([], [], "D", color="black", markerfacecolor="white", markersize=5, label="paper", linestyle="none")
    axis.set_xticks(range(len(keys)), [COLUMNS.get(key, key) for key in keys])
    axis.set(ylabel="accuracy in %", title="Systems on the benchmarks")
    axis.set_ylim(0, 1.1 * max(max(row["high"], row["paper"] or 0.0) for row in rows))
    style.shared_legend(figure, [axis], columns=2)
    style.save(figure, pd.DataFrame(rows), path.parent, path.stem)
    return path.with_suffix(".png")
