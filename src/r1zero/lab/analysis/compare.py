"""Fig. 3: several models side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from r1zero.errors import UserError
from r1zero.evaluate.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from r1zero.launch.files import whole

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY, YELLOW)
MARKERS = "os^Dvp*X"


def read_analyses(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Every analysis.json in or below the folders.

    Raises:
        UserError: a folder is missing or holds none.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder} does not exist")
        paths = sorted(folder.rglob("analysis.json"))
        if not paths:
            raise UserError(f"{folder} holds no finished analysis (analysis.json); make one with scripts/analyze.py")
        found |= {path.resolve(): json.loads(path.read_text()) for path in paths}
    return list(found.values())


def draw_models(folders: Sequence[Path], path: Path) -> Path:
    """Answering and self-reflection as bars over all temperatures, pass@k as lines over temperatures.

    Returns:
        path of the picture.
    """
    analyses = read_analyses(folders)
    names = [a["title"].replace(", template ", "\n") for a in analyses]
    figure, axes = plt.subplots(1, 3, figsize=(9 + 1.6 * len(analyses), 4.2), layout="constrained")
    at = list(range(len(analyses)))
    answering = [_mean(a, lambda row: row["answering"]) for a in analyses]
    axes[0].bar(at, answering, 0.6, color=BLUE)
    for x, value in zip(at, answering, strict=True):
        axes[0].annotate("no judge" if value != value else f"{value:.0f}", (x, 0 if value != value else value),
                         (0, 3), textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    axes[0].set(title="Answering (judge)", ylabel="responses, %", ylim=(0, 110))
    for place, a in enumerate(analyses):
        k = str(a["pass_k"])
        points = [(float(t), row["pass@k"][k]) for t, row in a["temperatures"].items()]
        temperatures, means = [t for t, _ in points], [100 * e["value"] for _, e in points]
        band = ([100 * e["low"] for _, e in points], [100 * e["high"] for _, e in points])
        colour = COLOURS[place % len(COLOURS)]
        label = f"{names[place].replace(chr(10), ', ')} (k={k})"
        axes[1].plot(temperatures, means, color=colour, marker=MARKERS[place % len(MARKERS)], label=label)
        axes[1].fill_between(temperatures, *band, color=colour, alpha=0.12, linewidth=0)
    axes[1].set(title="Exploration", xlabel="temperature", ylabel="pass@k, %", ylim=(0, None))
    axes[1].legend(frameon=False, fontsize=8)
    units = (("per_question", "questions", VERMILION, -0.2), ("per_response", "responses", PURPLE, 0.2))
    for unit, label, colour, shift in units:
        values = [_mean(a, lambda row, unit=unit: row["reflection"]["both"][unit]) for a in analyses]
        axes[2].bar([x + shift for x in at], values, 0.4, color=colour, label=label)
        for x, value in zip(at, values, strict=True):
            if value == value:
                axes[2].annotate(
                    f"{value:.1f}", (x + shift, value), (0, 3), textcoords="offset points", ha="center", fontsize=8
                )
    axes[2].set(title="Self-reflection, mean over temperatures", ylabel="%")
    axes[2].margins(y=0.15)
    axes[2].legend(frameon=False, fontsize=8)
    for axis in (axes[0], axes[2]):
        axis.set_xticks(at, names, fontsize=8)
    for axis in axes:
        axis.grid(axis="y", alpha=0.25)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    with whole(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
    plt.close(figure)
    return path


def _mean(analysis: dict[str, Any], pick: Any) -> float:
    """Mean over temperatures, in percent; NaN where nothing was measured."""
    values = [pick(row)["value"] for row in analysis["temperatures"].values() if pick(row) is not None]
    return 100 * sum(values) / len(values) if values else float("nan")
