"""One look for every figure: the Okabe-Ito colours, light axes, seeds as bands; PNG, SVG and the numbers as CSV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from r1zero.launch.files import whole

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe-Ito: distinguishable with any colour vision.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#999999",
)  # fmt: skip
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

ALGORITHMS = {
    "grpo": ("GRPO", VERMILION, "s"),
    "grpo_no_std_norm": ("GRPO, no std norm.", ORANGE, "D"),
    "grpo_no_length_norm": ("GRPO, no length norm.", GREEN, "^"),
    "drgrpo": ("Dr. GRPO", BLUE, "o"),
    "dapo": ("DAPO", PURPLE, "v"),
}
"""Label, colour and marker of each algorithm, the same in every figure."""

RC: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "r1zero",
}


plt.rcParams.update(RC)


def panels(rows: int, columns: int, width: float = 4.0, height: float = 3.2) -> tuple[Any, list[Any]]:
    """A figure with rows x columns axes in the common style: (figure, axes in reading order)."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), layout="constrained", squeeze=False
    )
    return figure, list(axes.flat)


def look(kind: str, position: int) -> tuple[str, str, str]:
    """Label, colour and marker of a series: those of the algorithm, or the next of the cycle."""
    if kind in ALGORITHMS:
        return ALGORITHMS[kind]
    return kind, CYCLE[position % len(CYCLE)], MARKERS[position % len(MARKERS)]


def band(axis: Any, table: pd.DataFrame, label: str, colour: str, marker: str | None = None, dash: str = "-") -> None:
    """Draw the mean over seeds as a line and one standard deviation over seeds to each side as a band (Fig. 9).

    Args:
        axis: where to draw.
        table: columns x, mean, low, high.
        label: for the legend; "" for none.
        colour: of line and band.
        marker: drawn at every point; None for a plain line.
        dash: matplotlib's line style.
    """
    axis.fill_between(table["x"], table["low"], table["high"], color=colour, alpha=0.18, linewidth=0)
    axis.plot(
        table["x"], table["mean"], dash, color=colour, linewidth=2, marker=marker, markersize=5, label=label or None
    )


def from_zero(axis: Any) -> None:
    """Let the vertical axis start at 0, with some room above the highest line."""
    axis.set_ylim(0, 1.06 * max(axis.get_ylim()[1], axis.dataLim.y1))


def over_seeds(rows: Iterable[tuple[float, float]]) -> pd.DataFrame:
    """(x, value) of every seed -> one row per x: mean, low and high, std, number of seeds; NaN is left out.

    ``low`` and ``high`` are mean - std and mean + std, with the standard deviation of a sample (n - 1); a single
    seed has none, and a band without width.
    """
    frame = pd.DataFrame(list(rows), columns=["x", "value"]).dropna()
    grouped = frame.groupby("x")["value"]
    mean, std = grouped.mean(), grouped.std().fillna(0.0)
    return pd.DataFrame(
        {"mean": mean, "low": mean - std, "high": mean + std, "std": std, "seeds": grouped.count()}
    ).reset_index()


def shared_legend(figure: Any, axes: list[Any], columns: int = 4) -> None:
    """One legend below all axes instead of one in each."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncol=min(columns, len(found)), frameon=False
        )


def save_png(figure: Any, path: Path, dpi: int = 110) -> Path:
    """Write a figure as PNG, whole or not at all, and close it; returns the path."""
    with whole(path) as aside:
        figure.savefig(aside, dpi=dpi, format="png")
    plt.close(figure)
    return path


def save(figure: Any, numbers: pd.DataFrame, folder: Path, name: str) -> Path:
    """Write ``name``.png, .svg and .csv into the folder; returns the PNG's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / f"{name}.svg") as aside:
        figure.savefig(aside, format="svg", metadata={"Date": None})
    with whole(folder / f"{name}.csv") as aside:
        numbers.to_csv(aside, index=False, float_format="%.6g")
    return save_png(figure, folder / f"{name}.png")
