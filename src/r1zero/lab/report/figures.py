"""The paper's figures from training runs; each returns the figure and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r1zero.algo.bias import RUNNING, VARIANTS
from r1zero.errors import UserError
from r1zero.lab.report import interactive
from r1zero.lab.report.runs import Run
from r1zero.train import plotting as style

Drawn = tuple[Any, pd.DataFrame]
COLUMNS = ["panel", "series", "x", "mean", "low", "high", "std", "seeds"]

PAPER_TEMPLATES = ("r1", "qwen", "none")
"""Panels of Fig. 6 in their order."""

BINS = ("step", "algorithm", "kind", "answer", "low", "high", "count")
"""Columns of bias.csv that are no weights."""

REWARD = ("reward/mean", "Training reward", "share of right responses")
LENGTH = ("length/mean", "Output length in training", "tokens")
SCORE = ("eval:accuracy", "Average score", "share of right responses")
FIG5 = (
    REWARD,
    LENGTH,
    SCORE,
    ("eval:length_correct", "Evaluation: length of right responses", "tokens"),
    ("eval:length_incorrect", "Evaluation: length of wrong responses", "tokens"),
    ("length/incorrect", "Training: length of wrong responses", "tokens"),
)
"""Panels: a column of metrics.csv, or behind "eval:" a metric of evaluations, its mean over benchmarks."""
EXTRAS = (
    ("policy/entropy", "Entropy", "nats a token"),
    ("diversity/distinct_answers", "Different answers in a group", "answers"),
    ("diversity/self_similarity", "Similarity of a group's responses", "mean Jaccard of n-grams"),
    ("group/zero_advantage_frac", "Groups without a signal", "share of groups"),
    (f"bias/length_slope/{RUNNING}", "Length bias on wrong answers", "slope of log weight on log length"),
    (f"bias/extreme_share/{RUNNING}", "Pull of extreme questions", "share of all pull"),
)


def groups_of(runs: Sequence[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    """Runs by a label; the four algorithms first, in their fixed order, then in order of appearance."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    fixed = [name for name in style.ALGORITHMS if name in found]
    return {name: found[name] for name in [*fixed, *(n for n in found if n not in fixed)]}


def smoothed(values: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Centred running mean over ``window`` rollout steps; the number of points stays."""
    if window <= 1 or not values:
        return values
    frame = pd.DataFrame(values, columns=["x", "y"])
    frame["y"] = frame["y"].rolling(window, min_periods=1, center=True).mean()
    return list(frame.itertuples(index=False, name=None))


def window_for(runs: Sequence[Run]) -> int:
    """Steps of the running mean of training figures: about a twelfth of the run."""
    longest = max((len(run.metrics) for run in runs), default=1)
    return max(1, longest // 12)


def curves(
    axis: Any,
    groups: dict[str, list[Run]],
    values: Callable[[Run], list[tuple[float, float]]],
    panel: str,
    marked: bool,
    dash: str = "-",
) -> pd.DataFrame:
    """Draw one panel, a band per group; returns the numbers (COLUMNS)."""
    tables = []
    for position, (name, members) in enumerate(groups.items()):
        table = style.over_seeds([point for run in members for point in values(run)])
        if table.empty:
            continue
        label, colour, marker = style.look(name, position)
        style.band(axis, table, label, colour, marker if marked else None, dash)
        table.insert(0, "series", name)
        table.insert(0, "panel", panel)
        tables.append(table)
    return pd.concat(tables) if tables else pd.DataFrame(columns=COLUMNS)


Points = list[tuple[float, float]]
"""(rollout step, value) in order."""


def dynamics(
    runs: Sequence[Run], key: Callable[[Run], str], panels: Sequence[tuple[str, str, str]], columns: int = 3
) -> Drawn:
    """Panels over training; figures of training as running means, those of evaluations as they are.

    A panel that no run has figures for is left out: runs without evaluations have no average score.

    Raises:
        UserError: no panel is left.
    """
    groups, window = groups_of(runs, key), window_for(runs)

    def values(run: Run, column: str) -> Points:
        if column.startswith("eval:"):
            return run.evaluation(column.removeprefix("eval:"))
        return smoothed(run.series(column), window)

    shown = [panel for panel in panels if any(values(run, panel[0]) for run in runs)]
    if not shown:
        raise UserError(f"no run has figures of {', '.join(panel[1].lower() for panel in panels)}")
    columns = min(columns, len(shown))
    figure, axes = style.panels(-(-len(shown) // columns), columns)
    numbers = []
    for axis, (column, title, unit) in zip(axes, shown, strict=False):
        numbers.append(curves(axis, groups, partial(values, column=column), title, marked=column.startswith("eval:")))
        axis.set(title=title, xlabel="rollout step", ylabel=unit)
        if column.removeprefix("eval:").startswith("length"):
            style.from_zero(axis)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    style.shared_legend(figure, axes)
    return figure, pd.concat(numbers)


def fig4(runs: Sequence[Run]) -> Drawn:
    """The biases side by side: weight of a token against length, pull of a question against success rate.

    All runs' rollouts are pooled; each algorithm's weights are relative to its own mean, so that the four
    can be compared on one axis (an optimizer that scales gradients, as Adam does, sees no more than that).
    """
    tables = [_named(run.bias, run.algo) for run in runs if run.bias is not None]
    if not tables:
        raise UserError("no run has a bias.csv; train with callbacks.bias, which is on by default")
    bias = pd.concat(tables)
    figure, axes = style.panels(1, 3, width=4.1, height=3.5)
    numbers = []
    for axis, answer in ((axes[0], "wrong"), (axes[1], "right")):
        part = bias[(bias["kind"] == "token") & (bias["answer"] == answer)]
        numbers.append(_weights(axis, part, f"token, {answer} responses"))
        axis.set(
            title=f"Token of a {answer} response", xlabel="response length in tokens", ylabel="weight / mean weight"
        )
        style.from_zero(axis)
    part = bias[bias["kind"] == "question"]
    part = part[(part["low"] > 0) & (part["low"] < 1)]
    numbers.append(_weights(axes[2], part, "question"))
    axes[2].set(title="Question", xlabel="success rate of its group", ylabel="pull / mean pull", xlim=(0, 1))
    style.from_zero(axes[2])
    style.shared_legend(figure, axes)
    return figure, pd.concat(numbers)


def _named(bias: pd.DataFrame, algo: str) -> pd.DataFrame:
    """A bias table whose running column has the algorithm's name; left out where it is one of the four."""
    if algo in VARIANTS:
        return bias.drop(columns=RUNNING, errors="ignore")
    return bias.rename(columns={RUNNING: algo})


def _weights(axis: Any, part: pd.DataFrame, panel: str) -> pd.DataFrame:
    """Draw |weight| over bins for the algorithms, each relative to its own mean over responses."""
    out = []
    others = [name for name in part if name not in (*VARIANTS, *BINS)]
    for place, name in enumerate([*VARIANTS, *others]):
        here = part[part[name].notna()]
        total = here["count"].sum()
        weighted = pd.DataFrame({"low": here["low"], "high": here["high"], "count": here["count"]})
        weighted["sum"] = here[name] * here["count"]
        bins = weighted.groupby(["low", "high"], as_index=False).sum()
        bins = bins[bins["count"] >= max(8.0, 2e-4 * total)]  # rarer bins are noise
        if bins.empty:
            continue
        x = (bins["low"] + bins["high"]) / 2
        mean = bins["sum"].sum() / bins["count"].sum()
        y = bins["sum"] / bins["count"] / mean
        label, colour, marker = style.look(name, place)
        axis.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)
        out.append(pd.DataFrame({"panel": panel, "series": name, "x": x, "relative_weight": y, "count": bins["count"]}))
    return pd.concat(out) if out else pd.DataFrame(columns=["panel", "series", "x", "relative_weight", "count"])


def fig5(runs: Sequence[Run]) -> Drawn:
    """GRPO against Dr. GRPO over training (Fig. 5)."""
    picked = [r for r in runs if r.algo in ("grpo", "drgrpo")] or list(runs)
    return dynamics(picked, lambda r: r.algo, FIG5)


def fig6(runs: Sequence[Run]) -> Drawn:
    """Template x question set: average score over training, a panel per template, a line per set (Fig. 6)."""
    templates = list(dict.fromkeys(run.template for run in runs))
    templates.sort(key=lambda name: PAPER_TEMPLATES.index(name) if name in PAPER_TEMPLATES else -1)
    sets = list(dict.fromkeys(run.data for run in runs))
    figure, axes = style.panels(1, len(templates))
    numbers = []
    for axis, name in zip(axes, templates, strict=True):
        # Every set in every panel: a set has one colour, whichever templates it was trained with.
        groups = {s: [run for run in runs if (run.template, run.data) == (name, s)] for s in sets}
        numbers.append(curves(axis, groups, lambda r: r.evaluation("accuracy"), name, marked=True))
        axis.set(title=f"template {name}", xlabel="rollout step", ylabel="average score")
    _same_limits(axes)
    style.shared_legend(figure, axes)
    return figure, pd.concat(numbers)


def fig7(runs: Sequence[Run]) -> Drawn:
    """Left, the bases' score; right, GRPO against Dr. GRPO, score solid and output length dashed (Fig. 7).

    The bases are compared under one algorithm, Dr. GRPO where it ran; the algorithms on the base that ends best among
    those that were trained with both. Without such a base there is no right panel.
    """
    algorithm = next((a for a in ("drgrpo", "grpo") if any(r.algo == a for r in runs)), runs[0].algo)
    bases = groups_of([r for r in runs if r.algo == algorithm], lambda r: r.model)
    both = [name for name in bases if {r.algo for r in runs if r.model == name} >= {"grpo", "drgrpo"}]
    figure, axes = style.panels(1, 2 if both else 1, width=5.0, height=3.6)

    def score(run: Run) -> Points:
        return run.evaluation("accuracy")

    numbers = [curves(axes[0], bases, score, "score by base", marked=True)]
    axes[0].set(title=f"Bases under {style.look(algorithm, 0)[0]}")
    if both:
        best = max(both, key=lambda name: max(_ends(bases[name]), default=0.0))
        groups = groups_of([r for r in runs if r.model == best and r.algo in ("grpo", "drgrpo")], lambda r: r.algo)
        window = window_for(runs)
        numbers.append(curves(axes[1], groups, score, f"score on {best}", marked=True))
        axes[1].set(title=f"Algorithms on {best}")
        lengths = axes[1].twinx()
        lengths.grid(visible=False)
        lengths.spines["right"].set_visible(True)
        numbers.append(curves(lengths, groups, lambda r: smoothed(r.series(LENGTH[0]), window), f"length on {best}",
                              marked=False, dash="--"))  # fmt: skip
        lengths.set_ylabel("output length in training, tokens (dashed)")
        style.from_zero(lengths)
    for axis, label, place in zip(
        axes, ("average score", "average score (solid)"), ("best", "lower right"), strict=False
    ):
        axis.set(xlabel="rollout step", ylabel=label)
        style.from_zero(axis)
        axis.legend(loc=place)  # where lengths end high, the best place would be over them
    return figure, pd.concat(numbers)


def _ends(members: Sequence[Run]) -> list[float]:
    """Last evaluated accuracy of each run that has one."""
    return [values[-1][1] for run in members if (values := run.evaluation("accuracy"))]


def fig8(runs: Sequence[Run]) -> Drawn:
    """The ablation of both normalisations, four algorithms (Fig. 8)."""
    return dynamics(runs, lambda r: r.algo, (REWARD, LENGTH, SCORE))


def fig9(runs: Sequence[Run]) -> Drawn:
    """GRPO against Dr. GRPO over independent runs: mean and standard deviation of score and length (Fig. 9)."""
    picked = [r for r in runs if r.algo in ("grpo", "drgrpo")] or list(runs)
    return dynamics(picked, lambda r: r.algo, (SCORE, LENGTH), columns=2)


def extras(runs: Sequence[Run]) -> Drawn:
    """What the paper's last section asks for: entropy and diversity, and the two biases as figures over training."""
    return dynamics(runs, lambda r: r.algo, EXTRAS)


FIGURES: dict[str, tuple[Callable[[Sequence[Run]], Drawn], str]] = {
    "fig4": (fig4, "The two biases: how strongly a token, and a question, pulls on the policy under each algorithm."),
    "fig5": (fig5, "GRPO against Dr. GRPO over training."),
    "fig6": (fig6, "Template x question set: average score over training, a panel per template."),
    "fig7": (
        fig7,
        "Base models over training; on the best of them, GRPO against Dr. GRPO: score solid, output length dashed.",
    ),
    "fig8": (fig8, "The ablation: length and standard-deviation normalisation, each on and off."),
    "fig9": (fig9, "GRPO against Dr. GRPO over independent runs: mean and standard deviation."),
    "extras": (extras, "Entropy, diversity and the strength of both biases over training."),
}
"""Figure -> how it is drawn, and what it shows."""


def choose(runs: Sequence[Run]) -> list[str]:
    """The figures that a set of runs can fill."""
    names = ["fig4"] if any(run.bias is not None for run in runs) else []
    if len({r.template for r in runs}) > 1 or len({r.data for r in runs}) > 1:
        names.append("fig6")
    if len({r.model for r in runs}) > 1:
        names.append("fig7")
    algorithms = {r.algo for r in runs}
    if len(algorithms) > 2:
        names.append("fig8")
    elif not set(names) & {"fig6", "fig7"}:  # whose bands would mix what these keep apart
        names.append("fig5")
        if algorithms == {"grpo", "drgrpo"} and len({r.seed for r in runs}) > 1:
            names.append("fig9")
    return [*names, "extras"]


def draw(names: Sequence[str], runs: Sequence[Run], folder: Path) -> dict[str, Path]:
    """Draw figures into a folder as PNG, SVG and CSV; {name: path of the PNG}."""
    for name in names:
        if name not in FIGURES:
            raise UserError(f"figure {name} is unknown; choose from {', '.join(FIGURES)}")
    return {name: interactive.save(*FIGURES[name][0](runs), folder, name) for name in names}


def _same_limits(axes: Sequence[Any]) -> None:
    lows, highs = zip(*(axis.get_ylim() for axis in axes), strict=True)
    for axis in axes:
        axis.set_ylim(min(np.min(lows), 0), max(highs))
