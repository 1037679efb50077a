"""The picture of one run: accuracy, reward and the lengths of right and wrong answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.train import plotting as style
from r1zero.train.plotting import BLUE, GREEN, GREY, ORANGE, VERMILION


def draw_curves(run_dir: Path) -> Path:
    """Draw ``curves.png`` beside ``metrics.csv``: the faint line is each step, the strong one a running mean.

    Returns:
        path of the picture.
    """
    table = pd.read_csv(run_dir / "metrics.csv")
    figure, axes = style.panels(1, 3, height=3.6)
    window = max(1, len(table) // 12)
    _curve(axes[0], table, "reward/mean", "reward of rollouts", BLUE, window)
    axes[0].set(title="Reward", ylabel="share of right responses", ylim=(0, 1))
    _curve(axes[1], table, "length/incorrect", "wrong responses", VERMILION, window)
    _curve(axes[1], table, "length/correct", "right responses", GREEN, window)
    axes[1].set(title="Response length", ylabel="tokens")
    axes[1].set_ylim(bottom=0)
    benchmarks = [c for c in table if c.startswith("eval/") and c.endswith("/accuracy") and "/average/" not in c]
    for colour, column in zip((BLUE, ORANGE, GREEN, VERMILION, GREY), benchmarks, strict=False):
        rows = table[["step", column]].dropna()
        axes[2].plot(rows["step"], rows[column], marker="o", markersize=4, color=colour, label=column.split("/")[1])
    axes[2].set(title="Evaluation", ylabel="accuracy", ylim=(0, 1))
    for axis in axes:
        axis.set_xlabel("rollout step")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=9)
    return style.save_png(figure, run_dir / "curves.png")


def _curve(axis: Any, table: pd.DataFrame, column: str, label: str, colour: str, window: int) -> None:
    if column not in table:
        return
    rows = table[["step", column]].dropna()
    axis.plot(rows["step"], rows[column], color=colour, alpha=0.25, linewidth=1)
    smooth = rows[column].rolling(window, min_periods=1, center=True).mean()
    axis.plot(rows["step"], smooth, color=colour, linewidth=2, label=label)
