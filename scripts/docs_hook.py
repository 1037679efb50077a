"""What the documentation takes from the code at each build: settings, API, layers."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "r1zero"
SCHEMAS = {
    "Training": ("TrainConfig", ["config.py", "algo_config.py", "rollout_config.py"]),
    "Evaluation": ("EvaluateConfig", ["evaluate/config.py"]),
    "Analysis": ("AnalyzeConfig", ["lab/analysis/config.py"]),
    "Pretraining": ("PretrainConfig", ["pretrain/config.py"]),
    "Study": ("StudyConfig", ["lab/study/config.py"]),
    "Benchmark": ("BenchmarkConfig", ["lab/benchmark/config.py"]),
}
"""The root and the files of dataclasses, by the command that reads them."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    files.append(File.generated(config, "reference/settings.md", content=settings()))
    files.append(File.generated(config, "reference/api.md", content=api()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the picture of the layers where its marker stands."""
    return markdown.replace("<!-- layers -->", layers()) if "<!-- layers -->" in markdown else markdown


def settings() -> str:
    """Every field of every schema as it is typed: its default, its range and the text below it."""
    out = ["# Settings", "", "Made from the schemas; `key=value` on the command line sets any of them.", ""]
    for command, (root, paths) in SCHEMAS.items():
        trees = [ast.parse((PACKAGE / path).read_text()) for path in paths]
        classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
        out += [f"## {command}", ""]
        done: set[str] = set()
        waiting = [(root, "")]
        while waiting:
            name, prefix = waiting.pop(0)
            if name in classes and classes[name].decorator_list and name not in done:  # an enum has none
                done.add(name)
                out += schema(classes[name], prefix, classes)
                waiting = groups(classes[name], prefix) + waiting
    return "\n".join(out)


def groups(node: ast.ClassDef, prefix: str) -> list[tuple[str, str]]:
    """The schemas that the fields of one hold, each with what its settings begin with."""
    found = []
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            *outer, name = (
                ast.unparse(field.annotation).removesuffix(" | None").rstrip("]").replace("[", ", ").split(", ")
            )
            found.append((name, f"{prefix}{ast.unparse(field.target)}.{'NAME.' if outer else ''}"))
    return found


def schema(node: ast.ClassDef, prefix: str, classes: dict[str, ast.ClassDef]) -> list[str]:
    """One dataclass as a table; a field that is a schema too has a table of its own."""
    out = [
        f"### {prefix.rstrip('.') or 'The run itself'}",
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
        kind = classes.get(ast.unparse(field.annotation))
        if kind and kind.decorator_list:
            continue
        if kind:
            limits = ", ".join(f"`{written(v.value)}`" for v in kind.body if isinstance(v, ast.Assign))
        name = f"`{prefix}{ast.unparse(field.target)}` ({ast.unparse(field.annotation)})"
        cells = (name, f"`{value}`" if value else "", limits, text)
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*out, ""]


SIGNS = {"above": ">", "at_least": "≥", "below": "<", "at_most": "≤"}


def default(node: ast.expr | None) -> tuple[str, str]:
    """A field's default and its range, from ``ranged(0.2, at_least=0)``, ``chosen("a", "b")`` or a plain value."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        given = [written(value) for value in node.args]
        if node.func.id == "ranged":
            return given[0], ", ".join(f"{SIGNS[k.arg]} {written(k.value)}" for k in node.keywords if k.arg in SIGNS)
        if node.func.id == "chosen":
            return given[0], ", ".join(f"`{value}`" for value in given)
        if node.func.id == "field":
            made = node.keywords[0].value
            if isinstance(made, ast.Lambda):
                return written(made.body), ""
            return {"dict": "{}", "list": "[]"}.get(ast.unparse(made), ""), ""
    return ("" if node is None else written(node)), ""


def written(node: ast.expr) -> str:
    """A value of the code as it is typed on the command line; nothing where the user has to give one."""
    text = ast.unparse(node)
    if isinstance(node, ast.BinOp):  # 10**8
        return f"{eval(text):,}"
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return {"MISSING": "", "None": "null", "True": "true", "False": "false"}.get(
        text, text.rpartition(".")[2] if "." in text and text[0].isupper() else text
    )


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
