"""What the documentation takes from the code at each build: settings, API, layers."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "r1zero"
SCHEMAS = {
    "Training": ["config.py", "algo_config.py"],
    "Evaluation": ["evaluate/config.py"],
    "Analysis": ["lab/analysis/config.py"],
    "Pretraining": ["pretrain/config.py"],
    "Study": ["lab/study/config.py"],
    "Benchmark": ["lab/benchmark/config.py"],
}
"""Files of dataclasses, by the command that reads them."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    files.append(File.generated(config, "reference/settings.md", content=settings()))
    files.append(File.generated(config, "reference/api.md", content=api()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the picture of the layers where its marker stands."""
    return markdown.replace("<!-- layers -->", layers()) if "<!-- layers -->" in markdown else markdown


def settings() -> str:
    """Every field of every schema: its default and the text below it."""
    out = ["# Settings", "", "Made from the schemas. `group.key=value` on the command line sets any of them.", ""]
    for command, paths in SCHEMAS.items():
        out += [f"## {command}", ""]
        for path in paths:
            for node in ast.parse((PACKAGE / path).read_text()).body:
                if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                    out += schema(node)
    return "\n".join(out)


def schema(node: ast.ClassDef) -> list[str]:
    """One dataclass as a table."""
    out = [
        f"### {node.name}",
        "",
        ast.get_docstring(node) or "",
        "",
        "| setting | default | range | |",
        "|---|---|---|---|",
    ]
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        value, limits = default(field.value)
        cells = (f"`{ast.unparse(field.target)}` ({ast.unparse(field.annotation)})", f"`{value}`", limits, text)
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*out, ""]


SIGNS = {"above": ">", "at_least": "≥", "below": "<", "at_most": "≤"}


def default(node: ast.expr | None) -> tuple[str, str]:
    """A field's default and its range, from ``ranged(0.2, at_least=0)``, ``chosen("a", "b")`` or a plain value."""
    if node is None:
        return "", ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        given = [ast.unparse(value) for value in node.args]
        if node.func.id == "ranged":
            limits = [f"{SIGNS[k.arg]} {ast.unparse(k.value)}" for k in node.keywords if k.arg in SIGNS]
            return (given or ["null"])[0], ", ".join(limits)
        if node.func.id == "chosen":
            named = [ast.unparse(k.value) for k in node.keywords if k.arg == "default"]
            return (named or given)[0].strip("'"), ", ".join(f"`{value.strip(chr(39))}`" for value in given)
        if node.func.id == "field":
            made = ast.unparse(node.keywords[0].value)
            return {"dict": "{}", "list": "[]"}.get(made, made.removeprefix("lambda: ")), ""
    return {"MISSING": "", "None": "null"}.get(ast.unparse(node), ast.unparse(node)), ""


def api() -> str:
    """Docstrings of what users write against."""
    names = {
        "Rollout": ["r1zero.batch", "r1zero.rollout.engine"],
        "Objectives": ["r1zero.algo.objective", "r1zero.algo.loss", "r1zero.algo.advantages", "r1zero.algo.credit"],
        "Rewards": ["r1zero.reward.outcome", "r1zero.reward.functions"],
    }
    lines = ["# API", ""]
    for title, modules in names.items():
        lines += [f"## {title}", "", *(f"::: {module}\n" for module in modules)]
    return "\n".join(lines)


def layers() -> str:
    """Rooms and the imports between them as an SVG; an edge that two others imply is left out."""
    import grimp

    graph = grimp.build_graph("r1zero")
    rooms = sorted(m for m in graph.find_children("r1zero") if graph.find_children(m))
    below = {
        a: {b for b in rooms if a != b and graph.direct_import_exists(importer=a, imported=b, as_packages=True)}
        for a in rooms
    }
    height: dict[str, int] = {}
    while len(height) < len(rooms):  # imports have no circle, so each round places at least one room
        height |= {a: 1 + max((height[b] for b in below[a]), default=-1) for a in rooms if below[a] <= height.keys()}
    reach: dict[str, set[str]] = {}
    for room in sorted(rooms, key=height.__getitem__):
        reach[room] = below[room].union(*(reach[b] for b in below[room]))
    rows = [[r for r in rooms if height[r] == h] for h in range(max(height.values()) + 1)][::-1]
    place = {
        r: (360 + 180 * (i - (len(row) - 1) / 2), 30 + 64 * y) for y, row in enumerate(rows) for i, r in enumerate(row)
    }
    lines, boxes = [], []
    for a in rooms:
        x, y = place[a]
        name = a.removeprefix("r1zero.")
        boxes.append(f'<rect x="{x - 60:.0f}" y="{y - 16:.0f}" width="120" height="32" rx="6"></rect>')
        hint = f"<title>{name} imports {_names(below[a])}</title>"
        boxes.append(f'<text x="{x:.0f}" y="{y + 5:.0f}">{hint}{name}</text>')
        direct = [b for b in below[a] if not any(b in reach[c] for c in below[a] if c != b)]
        lines += [
            f'<path d="M{x:.0f} {y + 16:.0f} L{place[b][0]:.0f} {place[b][1] - 16:.0f}"></path>' for b in sorted(direct)
        ]
    style = (
        "<style>.layers rect{fill:#0072B21a;stroke:#0072B2}"
        ".layers text{text-anchor:middle;fill:currentColor;font-size:15px}"
        ".layers path{stroke:#8888;stroke-width:1.5;fill:none}</style>"
    )
    size = f'viewBox="0 0 720 {64 * len(rows)}" style="max-width:720px"'
    return f'{style}<svg class="layers" {size} role="img">{"".join(lines + boxes)}</svg>'


def _names(rooms: set[str]) -> str:
    return ", ".join(sorted(room.removeprefix("r1zero.") for room in rooms)) or "no room"
