"""The bar chart of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1zero.evaluate.metrics import AVERAGE
from r1zero.evaluate.results import model_title
from r1zero.train.plotting import BLUE, SKY, VERMILION, plt, save_png


def draw_bars(results: dict[str, Any], path: Path) -> None:
    """Accuracy of each set with its interval; the paper's value as a diamond where the run repeats a row of it."""
    rows = dict(results["sets"])
    if len(rows) > 1:
        rows[AVERAGE] = results[AVERAGE]
    known = results.get("paper") or {}
    paper = {**known.get("values", {}), **(known.get("meant") or {})}
    n = results["sampling"]["n"]
    figure, axis = plt.subplots(figsize=(2.2 + 1.15 * len(rows), 3.8), layout="constrained")
    width = 0.4 if n > 1 else 0.65
    series = [("accuracy", f"avg@{n}" if n > 1 else "accuracy", BLUE)]
    if n > 1:
        series.append((f"pass@{n}", f"pass@{n}", SKY))
    for place, (key, label, colour) in enumerate(series):
        found = [row["pass@k"][str(n)] if key.startswith("pass") else row[key] for row in rows.values()]
        at = [i + (place - (len(series) - 1) / 2) * width for i in range(len(rows))]
        values = [100 * e["value"] for e in found]
        below = [max(0.0, v - 100 * e["low"]) for v, e in zip(values, found, strict=True)]
        above = [max(0.0, 100 * e["high"] - v) for v, e in zip(values, found, strict=True)]
        bars = axis.bar(at, values, width, color=colour, label=label)
        axis.errorbar(at, values, yerr=[below, above], fmt="none", ecolor="#333333", capsize=3, linewidth=1)
        for x, value, up in zip(at, values, above, strict=True):
            axis.annotate(f"{value:.1f}", (x, value + up), (0, 3), textcoords="offset points", ha="center", fontsize=8)
        if len(rows) > 1:
            bars[-1].set_hatch("//")
            bars[-1].set_edgecolor("white")
    marks = [(i, paper[name]) for i, name in enumerate(rows) if name in paper]
    if marks:
        axis.plot(*zip(*marks, strict=True), "D", color=VERMILION, markersize=6, label="paper", zorder=5)
    axis.set_xticks(range(len(rows)), [f"{name}\n({row['questions']})" if "questions" in row else f"{name}\n"
                                       for name, row in rows.items()])  # fmt: skip
    top = max((100 * e["accuracy"]["high"] for e in rows.values()), default=1)
    if n > 1:
        top = max(top, max(100 * e["pass@k"][str(n)]["high"] for e in rows.values()))
    top = max([top, *(value for _, value in marks)])
    axis.set_ylim(0, min(108, max(5, 1.18 * top)))
    axis.set_ylabel("accuracy in %")
    axis.set_title(f"{model_title(results['model'])}, template {results['template']}", fontsize=11)
    axis.grid(visible=False, axis="x")
    axis.set_axisbelow(True)
    if len(axis.get_legend_handles_labels()[0]) > 1:
        axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_png(figure, path, dpi=120)
