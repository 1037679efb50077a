"""Figures of one analysis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from r1zero.launch.files import whole
from r1zero.train.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION


def draw_overview(results: dict[str, Any], path: Path) -> None:
    """Fig. 3 for one model over temperatures: answering, exploration, self-reflection."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    rows = results["temperatures"]
    k = results["pass_k"]
    _line(axes[0], rows, [r["answering"] for r in rows.values()], "responses that answer the question", BLUE, "o")
    axes[0].set(title="Answering (judge)", ylim=(0, 105))
    if not any(r["answering"] for r in rows.values()):
        axes[0].text(0.5, 0.5, "no judge was asked", transform=axes[0].transAxes, ha="center", color=GREY)
    _line(axes[1], rows, [r["pass@k"][str(k)] for r in rows.values()], f"pass@{k}", GREEN, "s")
    if k > 1:
        _line(
            axes[1],
            rows,
            [r["accuracy"] for r in rows.values()],
            f"accuracy (avg@{results['sampling']['n']})",
            GREY,
            "^",
        )
    axes[1].set(title=f"Exploration: pass@{k}", ylim=(0, None))
    name = results["reflection_by"]
    styles = (("per_question", "questions", VERMILION, "o"), ("per_response", "responses", PURPLE, "s"))
    for unit, label, colour, marker in styles:
        _line(
            axes[2], rows, [r["reflection"]["both"][unit] for r in rows.values()], f"{label} ({name})", colour, marker
        )
    axes[2].set(title="Self-reflection", ylim=(0, None))
    for axis in axes:
        axis.set_xlabel("temperature")
        axis.set_ylabel("%")
        axis.set_xticks([float(t) for t in rows])
        _tidy(axis)
    figure.suptitle(f"{results['title']}: {results['questions']} questions", fontsize=11)
    with whole(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
    plt.close(figure)


def draw_keywords(results: dict[str, Any], path: Path) -> None:
    """Fig. 13: how often each keyword stands, and how keyword, judge and both differ over temperatures."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    counts = results["keywords"]
    words = sorted(counts, key=lambda word: (counts[word]["responses"], word))
    held = [counts[word]["responses"] for word in words]
    good = [counts[word]["right"] for word in words]
    left.barh(words, held, color=SKY, label="responses with the keyword")
    left.barh(words, good, color=BLUE, label="of these, right ones")
    for place, value in enumerate(held):
        left.annotate(f"{value}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    left.set(title=f"Keywords in {results['responses']:,} responses", xlabel="responses")
    left.margins(x=0.1)
    rows = results["temperatures"]
    for name, label, colour, marker in (
        ("keyword", "keyword", ORANGE, "^"),
        ("judge", "judge", BLUE, "s"),
        ("both", "keyword and judge", VERMILION, "o"),
    ):
        if name != "keyword" and not results["judged"]:
            continue
        if name == "judge" and results["judge"]["reflection"] != "all":
            continue  # only responses with a keyword were judged
        _line(right, rows, [r["reflection"][name]["per_response"] for r in rows.values()], label, colour, marker)
    right.set(title="Self-reflection per response", xlabel="temperature", ylabel="%", ylim=(0, None))
    right.set_xticks([float(t) for t in rows])
    for axis in (left, right):
        _tidy(axis)
    with whole(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
    plt.close(figure)


def draw_gain(gains: pd.DataFrame, results: dict[str, Any], path: Path) -> None:
    """Fig. 15: accuracy with minus accuracy without self-reflection, one bar per question."""
    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    gain_panel(axis, gains, results["reflection_gain"])
    with whole(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
    plt.close(figure)


def gain_panel(axis: Any, gains: pd.DataFrame, summary: dict[str, Any] | None, title: str = "") -> None:
    """Sorted bars of the gains with their mean, its 95 % interval, and their median.

    Args:
        axis: where to draw.
        gains: of :func:`measures.reflection_gain`.
        summary: of :func:`measures.gain_summary`; None draws a note.
        title: put before the figures in the panel's title.
    """
    values = 100 * gains["gain"].astype(float)
    colours = [GREEN if v > 0 else VERMILION if v < 0 else GREY for v in values]
    axis.bar(range(len(values)), values, width=0.9, color=colours)
    axis.axhline(0, color="#333333", linewidth=0.8)
    if summary is None:
        axis.text(
            0.5, 0.6, "no question has responses of both kinds", transform=axis.transAxes, ha="center", color=GREY
        )
    else:
        mean, low, high, median = (100 * summary[key] for key in ("value", "low", "high", "median"))
        axis.axhline(
            mean, color=BLUE, linestyle="--", linewidth=1.4, label=f"mean {mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        )
        axis.axhspan(low, high, color=BLUE, alpha=0.12, linewidth=0)
        axis.axhline(median, color=ORANGE, linestyle=":", linewidth=1.8, label=f"median {median:+.1f}")
        signs = f"better on {summary['above']}, equal on {summary['equal']}, worse on {summary['below']} questions"
        stage = f"; {summary['samples']} responses each" if summary["stage"] == 2 else ""
        axis.set_title(f"{title}{': ' if title else ''}{signs}{stage}", fontsize=10)
    axis.set(xlabel="questions, sorted", ylabel="accuracy with minus without\nself-reflection, points", xticks=[])
    _tidy(axis)


def _line(axis: Any, rows: dict[str, Any], found: Sequence[Any], label: str, colour: str, marker: str) -> None:
    """A line over temperatures with its intervals; temperatures without a value are left out."""
    points = [(float(t), e) for t, e in zip(rows, found, strict=True) if e is not None]
    if not points:
        return
    at = [t for t, _ in points]
    value, low, high = ([100 * e[key] for _, e in points] for key in ("value", "low", "high"))
    axis.plot(at, value, marker=marker, markersize=5, color=colour, label=label)
    axis.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)


def _tidy(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)
