"""A self-contained HTML report: figures, tables, settings and environment in one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from r1zero.lab.report.figures import FIGURES
from r1zero.lab.report.runs import Run
from r1zero.lab.report.verdicts import Verdict, interval

CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.8rem 0; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; } figure img { max-width: 100%; } figcaption { color: #555; font-size: 0.9rem; }
.word { font-weight: 600; white-space: nowrap; }
.holds { color: #00664b; } .does-not-hold { color: #a33d00; } .not-enough-runs { color: #666; }
pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; font-size: 0.8rem; }
.note { color: #666; font-size: 0.85rem; }
"""


@dataclass(frozen=True)
class Section:
    """A heading and its HTML."""

    title: str
    body: str


def document(title: str, lead: str, sections: Sequence[Section]) -> str:
    """A whole HTML document."""
    parts = [f"<h2>{html.escape(s.title)}</h2>\n{s.body}" for s in sections if s.body]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n<p>{html.escape(lead)}</p>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table; cells are escaped; columns in ``numbers`` are set right."""

    def cell(tag: str, text: str, at: int) -> str:
        kind = ' class="number"' if at in numbers else ""
        return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", text, i) for i, text in enumerate(header)) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", text, i) for i, text in enumerate(row)) + "</tr>" for row in rows]
    return "<table>" + "\n".join(lines) + "</table>"


def verdict_table(found: Sequence[Verdict]) -> str:
    """Claim, the paper's place, measured mean and interval, verdict."""
    rows = []
    for v in found:
        kind = v.word.replace(" ", "-")
        note = f'<br><span class="note">{html.escape(v.note)}</span>' if v.note else ""
        rows.append(
            f"<tr><td>({html.escape(v.key)})</td><td>{html.escape(v.claim)}</td><td>{html.escape(v.paper)}</td>"
            f'<td>{html.escape(v.measured)}{note}</td><td class="word {kind}">{v.word}</td></tr>'
        )
    head = "<tr><th></th><th>claim</th><th>paper</th><th>measured: mean [95 % interval]</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def picture(path: Path, caption: str) -> str:
    """A PNG inside the document."""
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem)
    return (
        f'<figure id="{name}"><img src="data:image/png;base64,{data}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def figures_section(paths: dict[str, Path], note: str = "") -> str:
    """All figures with their captions."""
    hint = "Lines are means over seeds, bands reach from the lowest to the highest seed."
    shown = [picture(path, f"{name}: {FIGURES[name][1] if name in FIGURES else ''}") for name, path in paths.items()]
    return f'<p class="note">{html.escape(hint)} {html.escape(note)}</p>' + "".join(shown)


def results_table(runs: Sequence[Run]) -> str:
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


def settings_section(runs: Sequence[Run]) -> str:
    """The settings that all runs share, those that vary, and where each run lies."""
    flat = [flatten(run.config) for run in runs]
    keys = sorted({key for values in flat for key in values})
    common = {k: flat[0].get(k) for k in keys if len({repr(values.get(k)) for values in flat}) == 1}
    varying = [k for k in keys if k not in common and not k.startswith(("paths.", "logger.", "name", "group"))]
    shared = {k: v for k, v in common.items() if not k.startswith(("paths.", "axes."))}
    listing = html.escape(yaml.safe_dump(shared, sort_keys=True, allow_unicode=True))
    rows = [
        [run.name, run.state, *(_short(values.get(k)) for k in varying)] for run, values in zip(runs, flat, strict=True)
    ]
    title = f"what all {len(runs)} runs share ({len(shared)} settings)"
    return (
        f"<details><summary>{title}</summary><pre>{listing}</pre></details>"
        "<details><summary>what varies, run by run</summary>" + table(["run", "state", *varying], rows) + "</details>"
    )


def environment_section(runs: Sequence[Run]) -> str:
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


def frame_table(frame: pd.DataFrame) -> str:
    """A data frame as it stands."""
    numeric = [i for i, name in enumerate(frame.columns) if pd.api.types.is_numeric_dtype(frame[name])]
    cells = [[_short(value) for value in row] for row in frame.itertuples(index=False)]
    return table([str(c) for c in frame.columns], cells, numeric)


def write(path: Path, text: str) -> Path:
    """Write the document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dict with dotted keys."""
    if isinstance(node, dict) and node:
        return {k: v for key, child in node.items() for k, v in flatten(child, f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}
