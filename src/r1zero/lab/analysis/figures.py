"""Fig. 3, 10, 12 to 15 and Table 5 from analyses of one model, or of several (`scripts/report.py models`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.errors import UserError
from r1zero.evaluate.results import model_title
from r1zero.lab.analysis.keywords import KEYWORDS
from r1zero.lab.analysis.measures import CLASSES
from r1zero.lab.analysis.protocol import SCREENING
from r1zero.lab.analysis.results import share_answering
from r1zero.launch.files import read_json, write_whole
from r1zero.train import plotting as style

Drawn = tuple[Any, pd.DataFrame]
NONE = "none"
"""Name of the template that is no template."""
COLOURS = {"right": style.GREEN, "wrong": style.VERMILION, "unformatted": style.ORANGE, "truncated": style.GREY}
WAYS = (("keyword", "Keyword"), ("judge", "Judge"), ("both", "Keyword and judge"))
PAPER_LENGTHS = {
    "deepseek_v3_base": {"unformatted": 880.7, "right": 621.3, "wrong": 1038.9},
    "deepseek_r1_zero": {"unformatted": 7870.3, "right": 4965.4, "wrong": 8206.1},
}
"""Table 5 of the paper: characters."""


@dataclass(frozen=True)
class Analysis:
    """One analysis: its figures and its folder."""

    figures: dict[str, Any]
    folder: Path

    @property
    def template(self) -> str:
        """Name of its template."""
        return str(self.figures["template"])

    @property
    def screening(self) -> bool:
        """Whether it was made to choose a template, and is small."""
        return self.folder.parent.name == SCREENING

    @property
    def run(self) -> Path:
        """The run folder, of which a trial of a template is a part."""
        return self.folder.parents[1] if self.screening else self.folder

    @property
    def answering(self) -> float:
        """Share that decides between templates."""
        return share_answering(self.figures)

    def line(self, pick: Callable[[dict[str, Any]], dict[str, float] | float | None]) -> pd.DataFrame:
        """A figure over temperatures: columns x, value, low, high; temperatures without one are left out."""
        rows = []
        for temperature, row in self.figures["temperatures"].items():
            found = pick(row)
            if found is None:
                continue
            found = found if isinstance(found, dict) else {"value": found, "low": found, "high": found}
            rows.append({"x": float(temperature)} | {key: found[key] for key in ("value", "low", "high")})
        return pd.DataFrame(rows, columns=["x", "value", "low", "high"])


@dataclass
class Base:
    """A model with its analyses, one for each template: the largest."""

    name: str
    analyses: list[Analysis] = field(default_factory=list)

    @property
    def main(self) -> Analysis:
        """The analysis that pass@k and self-reflection are read from: no trial of a template, and most answer in it."""
        full = [a for a in self.analyses if not a.screening] or self.analyses
        return max(full, key=lambda a: a.answering)

    @property
    def bare(self) -> Analysis | None:
        """The analysis without a template."""
        return next((a for a in self.analyses if a.template == NONE), None)

    @property
    def templated(self) -> Analysis | None:
        """The analysis with the template under which most responses answer."""
        return max((a for a in self.analyses if a.template != NONE), key=lambda a: a.answering, default=None)


def read_bases(folders: Sequence[Path]) -> list[Base]:
    """The models of every analysis.json in or below the folders, in the order in which they are found.

    Raises:
        UserError: a folder is missing or holds none.
    """
    found: dict[Path, Analysis] = {}
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder} does not exist")
        paths = sorted(folder.rglob("analysis.json"))
        if not paths:
            raise UserError(f"{folder} holds no finished analysis (analysis.json); make one with scripts/analyze.py")
        for path in paths:
            content = read_json(path)
            if "levels" not in content:
                raise UserError(f"{path} was written by an older version: resume={path.parent} brings it up to date")
            found[path.resolve()] = Analysis(content, path.parent)
    bases: dict[str, Base] = {}
    for analysis in found.values():
        title = model_title(analysis.figures["model"])
        if title == "server":  # it served one model and was not asked which: every run is a model of its own
            title = f"server, {analysis.run.name}"
        # Of a folder the last two names: outputs/RUN/policy is RUN/policy.
        base = bases.setdefault(title, Base("/".join(Path(title).parts[-2:]) if Path(title).is_absolute() else title))
        same = next((a for a in base.analyses if a.template == analysis.template), None)
        if same is None:
            base.analyses.append(analysis)
        elif analysis.figures["responses"] > same.figures["responses"]:
            base.analyses[base.analyses.index(same)] = analysis
    return list(bases.values())


def fig3(bases: Sequence[Base]) -> Drawn:
    """Answering with and without template, pass@k, and questions with self-reflection, over temperatures (Fig. 3)."""
    figure, axes = style.panels(1, 3, width=4.6, height=3.8)
    judged = any(a.figures["judged"] for base in bases for a in base.analyses)
    numbers = []
    for place, base in enumerate(bases):
        for analysis, dash in ((base.templated, "-"), (base.bare, "--")):
            if analysis is not None:
                what = "without template" if analysis.template == NONE else f"template {analysis.template}"
                table = analysis.line(lambda row: row["answering"] if judged else row["formatted_frac"])
                numbers.append(_line(axes[0], table, base.name, place, "answering", what, 100, dash))
        main = base.main
        k = str(main.figures["pass_k"])
        what = "without template" if main.template == NONE else f"template {main.template}"
        table = main.line(lambda row, k=k: row["pass@k"][k])  # type: ignore[misc]
        numbers.append(_line(axes[1], table, base.name, place, f"pass@{k}", what, 100))
        table = main.line(lambda row: row["reflection"]["both"]["per_question"])
        numbers.append(_line(axes[2], table, base.name, place, "self-reflection", what, main.figures["questions"]))
    title = "Responses that answer" if judged else "Answer in place (no judge)"
    axes[0].set(title=title, ylabel="% (solid: with template, dashed: without)", ylim=(-3, 103))
    axes[1].set(title=f"Exploration: pass@{bases[0].main.figures['pass_k']}", ylabel="%")
    by = "keyword and judge" if judged else "keyword"
    axes[2].set(title=f"Self-reflection ({by})", ylabel="questions with such a response")
    for axis in axes:
        axis.set(xlabel="temperature", xlim=axes[1].get_xlim())
    for axis in axes[1:]:
        style.from_zero(axis)
    axes[2].yaxis.get_major_locator().set_params(integer=True)
    style.shared_legend(figure, axes[1:])  # every model is there, in order; unjudged ones are not in the first
    return figure, pd.concat(numbers)


def fig10(bases: Sequence[Base]) -> Drawn:
    """How often each keyword stands in the responses of each model, on a logarithmic axis (Fig. 10)."""
    figure, (axis,) = style.panels(1, 1, width=11, height=4.2)
    width = 0.84 / len(bases)
    rows = []
    for place, base in enumerate(bases):
        _, colour, _ = style.look(base.name, place)
        counts = [base.main.figures["keywords"][word]["occurrences"] for word in KEYWORDS]
        at = [i + (place - (len(bases) - 1) / 2) * width for i in range(len(KEYWORDS))]
        axis.bar(at, counts, width, color=colour, label=base.name)
        rows += [{"model": base.name, "keyword": w, "occurrences": n} for w, n in zip(KEYWORDS, counts, strict=True)]
    most = max(row["occurrences"] for row in rows)
    if most:  # without any there is nothing to take the logarithm of
        axis.set_yscale("log")
        axis.set_ylim(0.8, 2 * most)
    axis.set_xticks(range(len(KEYWORDS)), KEYWORDS, rotation=35, ha="right")
    axis.set(title="Keywords of self-reflection", ylabel="occurrences")
    axis.legend()
    return figure, pd.DataFrame(rows)


def fig12(bases: Sequence[Base], unit: str = "question") -> Drawn:
    """Questions with self-reflection by keyword, by judge and by both, over temperatures, a line a model (Fig. 12)."""
    figure, axes = style.panels(1, 3, width=4.4, height=3.6)
    numbers = []
    for axis, (way, title) in zip(axes, WAYS, strict=True):
        for place, base in enumerate(bases):
            figures = base.main.figures
            if way == "judge" and (not figures["judged"] or figures["judge"]["reflection"] != "all"):
                continue  # the judge saw responses with a keyword alone
            table = base.main.line(lambda row, way=way: row["reflection"][way][f"per_{unit}"])  # type: ignore[misc]
            scale = figures["questions"] if unit == "question" else 100
            numbers.append(_line(axis, table, base.name, place, title, base.main.template, scale))
        if not axis.get_lines():
            axis.text(0.5, 0.5, "no judge read all responses", transform=axis.transAxes, ha="center", color=style.GREY)
        label = "questions with self-reflection" if unit == "question" else "% of responses"
        axis.set(title=title, xlabel="temperature", ylabel=label, xlim=axes[0].get_xlim())
        style.from_zero(axis)
        if unit == "question":
            axis.yaxis.get_major_locator().set_params(integer=True)
    style.shared_legend(figure, axes)
    return figure, pd.concat(numbers)


def fig13(bases: Sequence[Base]) -> Drawn:
    """As Fig. 12, of responses in place of questions (Fig. 13)."""
    return fig12(bases, "response")


def fig14(bases: Sequence[Base]) -> Drawn:
    """Responses that are right, wrong, unformatted and truncated, stacked, by level; a panel a model (Fig. 14)."""
    columns = min(3, len(bases))
    figure, axes = style.panels(-(-len(bases) // columns), columns)
    rows = []
    for axis, base in zip(axes, bases, strict=False):
        levels = base.main.figures["levels"]
        below = [0] * len(levels)
        for name in CLASSES:
            counts = [row[name] for row in levels.values()]
            axis.bar(range(len(levels)), counts, 0.7, bottom=below, color=COLOURS[name], label=name)
            below = [a + b for a, b in zip(below, counts, strict=True)]
            rows += [
                {"model": base.name, "template": base.main.template, "level": level, "class": name, "responses": count}
                for level, count in zip(levels, counts, strict=True)
            ]
        axis.set_xticks(range(len(levels)), [level.removeprefix("Level ") for level in levels])
        axis.set(title=base.name, xlabel="level", ylabel="responses")
    for axis in axes[len(bases) :]:
        axis.set_visible(False)
    style.shared_legend(figure, axes, columns=2 * columns)
    return figure, pd.DataFrame(rows)


def fig15(bases: Sequence[Base]) -> Drawn:
    """Accuracy with minus without self-reflection, a bar a question, sorted; a panel a model (Fig. 15).

    With the mean over questions, its 95 % interval, and the median.
    """
    shown = [base for base in bases if base.main.figures["reflection_gain"]]
    figure, axes = style.panels(len(shown), 1, width=9, height=3.4)
    numbers = []
    for axis, base in zip(axes, shown, strict=True):
        gains, summary = pd.read_csv(base.main.folder / "reflection_gain.csv"), base.main.figures["reflection_gain"]
        values = 100 * gains["gain"]
        colours = [style.GREEN if v > 0 else style.VERMILION if v < 0 else style.GREY for v in values]
        axis.bar(range(len(values)), values, width=0.9, color=colours)
        axis.axhline(0, color="#333333", linewidth=0.8)
        mean, low, high, median = (100 * summary[key] for key in ("value", "low", "high", "median"))
        label = f"mean {mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        axis.axhline(mean, color=style.BLUE, linestyle="--", linewidth=1.4, label=label)
        axis.axhspan(low, high, color=style.BLUE, alpha=0.12, linewidth=0, zorder=0)  # behind the bars
        axis.axhline(median, color=style.ORANGE, linestyle=":", linewidth=1.8, label=f"median {median:+.1f}")
        signs = f"better on {summary['above']}, equal on {summary['equal']}, worse on {summary['below']} questions"
        stage = f"; {summary['samples']} responses each" if summary["stage"] == 2 else ""
        axis.set_title(f"{base.name}: {signs}{stage}", fontsize=10)
        axis.set(xlabel="questions, sorted", ylabel="accuracy with minus without\nself-reflection, points", xticks=[])
        axis.legend(loc="upper left")
        numbers.append(gains.assign(model=base.name))
    return figure, pd.concat(numbers)


def table5(bases: Sequence[Base]) -> str:
    """Mean length of unformatted, right and wrong responses in characters and tokens, as Markdown (Table 5)."""
    lines = ["| model | template | responses | unformatted | right | wrong |", "|---|---|---|---:|---:|---:|"]
    order = ("unformatted", "right", "wrong")
    for base in bases:
        lengths = base.main.figures["lengths"]
        for unit in ("characters", "tokens"):
            cells = ["-" if lengths[name][unit] is None else f"{lengths[name][unit]:.1f}" for name in order]
            lines.append(f"| {base.name} | {base.main.template} | {unit} | {' | '.join(cells)} |")
        counts = [str(lengths[name]["responses"]) for name in order]
        lines.append(f"| {base.name} | {base.main.template} | number | {' | '.join(counts)} |")
        paper = PAPER_LENGTHS.get(base.main.figures["model"]["name"])
        if paper:
            lines.append(f"| paper | r1 | characters | {' | '.join(str(paper[name]) for name in order)} |")
    return "\n".join(lines) + "\n"


FIGURES: dict[str, Callable[[Sequence[Base]], Drawn]] = {
    "fig3": fig3,
    "fig10": fig10,
    "fig12": fig12,
    "fig13": fig13,
    "fig14": fig14,
    "fig15": fig15,
}


def write_models(folders: Sequence[Path], names: str | None = None, out: Path | None = None) -> list[Path]:
    """Draw the figures and write Table 5.

    Args:
        folders: of analyses, or folders above them.
        names: comma-separated names of figures; None takes those that the analyses can fill.
        out: folder to write; None is ``figures`` in the first folder.

    Returns:
        the pictures, then the table.

    Raises:
        UserError: there is no analysis, or a figure is unknown.
    """
    bases = read_bases(folders)
    out = out or folders[0] / "figures"
    gains = any(base.main.figures["reflection_gain"] for base in bases)
    chosen = [name.strip() for name in names.split(",")] if names else [n for n in FIGURES if n != "fig15" or gains]
    made = []
    for name in chosen:
        if name not in FIGURES:
            raise UserError(f"figure {name} is unknown; choose from {', '.join(FIGURES)}")
        if name == "fig15" and not gains:
            raise UserError("fig15: no analysis has a question with responses of both kinds")
        made.append(style.save(*FIGURES[name](bases), out, name))
    write_whole(out / "table5.md", table5(bases))
    return [*made, out / "table5.md"]


def _line(
    axis: Any, table: pd.DataFrame, name: str, place: int, panel: str, what: str, scale: float, dash: str = "-"
) -> pd.DataFrame:
    """Draw a line with its 95 % band, in ``scale``-ths of a share; returns the numbers."""
    label, colour, marker = style.look(name, place)
    table = table.assign(**{key: table[key] * scale for key in ("value", "low", "high")})
    if len(table):
        if len(table) == 1:  # a band has no width there
            axis.vlines(table["x"], table["low"], table["high"], color=colour, alpha=0.5)
        axis.fill_between(table["x"], table["low"], table["high"], color=colour, alpha=0.12, linewidth=0)
        axis.plot(table["x"], table["value"], color=colour, marker=marker, markersize=5, linestyle=dash,
                  label=label if dash == "-" else None)  # fmt: skip
    return table.assign(panel=panel, model=name, template=what)
