"""A self-contained HTML report: figures, tables, settings and environment in one file that needs nothing else."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from r1zero.lab.report.figures import FIGURES
from r1zero.lab.report.runs import Run
from r1zero.lab.report.verdicts import Verdict, interval
from r1zero.launch.files import write_whole
from r1zero.launch.resume import flatten

TEMPLATES = Environment(loader=PackageLoader("r1zero.lab.report"), autoescape=True, undefined=StrictUndefined)
MACROS: Any = TEMPLATES.get_template("macros.html.j2").module


@dataclass(frozen=True)
class Section:
    """A heading and its HTML."""

    title: str
    body: Markup


def document(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A whole HTML document; plotly comes with it where a figure can be hovered over."""
    interactive = any("data-plot" in section.body for section in sections)
    script = Markup(get_plotlyjs() if interactive else "")  # a library of ours to ship, not a value from a run
    return TEMPLATES.get_template("document.html.j2").render(
        title=title, lead=lead, sections=sections, interactive=interactive, plotly=script
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> Markup:
    """A table; cells are escaped; columns in ``numbers`` are set right."""
    return Markup(MACROS.table(header, rows, numbers))


def paragraph(text: str) -> Markup:
    """A note in small print; escaped."""
    return Markup('<p class="note">{}</p>').format(text)


def verdict_table(found: Sequence[Verdict]) -> Markup:
    """Claim, the paper's place, measured mean and interval, verdict."""
    return Markup(MACROS.verdicts(found))


def picture(path: Path, caption: str) -> Markup:
    """A PNG inside the document, and what plotly draws in its place where ``plotting.save`` left that beside it."""
    data = base64.b64encode(path.read_bytes()).decode()
    plot = path.with_suffix(".plotly.json")
    # "<" can't stand in a script element: a label could close it.
    text = Markup(plot.read_text().replace("<", "\\u003c")) if plot.is_file() else None
    return Markup(MACROS.picture(path.stem, data, caption, text))


def figures_section(paths: dict[str, Path], note: str = "", captions: Mapping[str, str] = {}) -> Markup:
    """All figures with their captions, the paper's or those given."""
    hint = "Lines are means over seeds, bands one standard deviation over seeds to each side."
    known = {name: caption for name, (_, caption) in FIGURES.items()} | dict(captions)
    shown = [picture(path, f"{name}: {known[name]}") for name, path in paths.items()]
    return Markup(MACROS.figures(f"{hint} {note}", shown))


def results_table(runs: Sequence[Run]) -> Markup:
    """Before and after training, one row per recipe, means over seeds with 95 % intervals."""
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    rows = []
    for recipe, members in groups.items():
        row = [*recipe, str(len(members))]
        for metric, pattern in (("accuracy", ".3f"), ("length_correct", ".1f"), ("length_incorrect", ".1f")):
            ends = [[m.evaluation(metric)[which][1] for m in members if m.evaluation(metric)] for which in (0, -1)]
            before, after = (interval(values) for values in ends)
            spread = f" ± {after.high - after.mean:{pattern}}" if after.seeds > 1 else ""
            row.append(f"{before.mean:{pattern}} → {after.mean:{pattern}}{spread}" if after.seeds else "")
        rows.append(row)
    header = ["algorithm", "model", "template", "data", "runs", "accuracy", "length, right", "length, wrong"]
    return table(header, rows, numbers=(4, 5, 6, 7))


def settings_section(runs: Sequence[Run]) -> Markup:
    """The settings that all runs share, those that vary, and where each run lies."""
    flat = [flatten(run.config) for run in runs]
    keys = sorted({key for values in flat for key in values})
    common = {k: flat[0].get(k) for k in keys if len({repr(values.get(k)) for values in flat}) == 1}
    varying = [k for k in keys if k not in common and not k.startswith(("paths.", "logger.", "name", "group"))]
    shared = {k: v for k, v in common.items() if not k.startswith(("paths.", "axes."))}
    listing = yaml.safe_dump(shared, sort_keys=True, allow_unicode=True)
    rows = [
        [run.name, run.state, *(_short(values.get(k)) for k in varying)] for run, values in zip(runs, flat, strict=True)
    ]
    title = f"what all {len(runs)} runs share ({len(shared)} settings)"
    return Markup(MACROS.settings(title, listing, table(["run", "state", *varying], rows)))


def environment_section(runs: Sequence[Run]) -> Markup:
    """Versions, machine and time that the figures come from."""
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.summary.get("versions", {}).items():
            versions.setdefault(name, set()).add(str(value))
    rows = [[name, ", ".join(sorted(values))] for name, values in sorted(versions.items())]
    seconds = [float(run.summary["seconds"]) for run in runs if run.summary.get("seconds")]
    tokens = sum(int(run.summary.get("tokens", 0)) for run in runs)
    rows.append(["machine of the report", f"{platform.system()} {platform.machine()}"])
    if seconds:
        rows.append(
            ["training time", f"{sum(seconds) / 60:.0f} min over {len(seconds)} runs, {tokens:,} tokens sampled"]
        )
    return table(["", ""], rows)


def write(path: Path, text: str) -> Path:
    """Write the document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
