"""What the documentation takes from the code at each build: settings, API, layers."""

from __future__ import annotations

import ast
import re
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
    "Pipeline": ["lab/pipeline/config.py"],
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
    out = [f"### {node.name}", "", ast.get_docstring(node) or "", "", "| setting | default | |", "|---|---|---|"]
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        kind = ast.unparse(field.annotation)
        value = ast.unparse(field.value) if field.value else ""
        value = re.sub(r"^field\(default_factory=(lambda: )?(.*)\)$", r"\2", value)
        cells = (f"`{ast.unparse(field.target)}` ({kind})", f"`{value}`", text)
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*out, ""]


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
    """Rooms and the imports between them, as a Mermaid graph; an edge that two others imply is left out."""
    import grimp

    graph = grimp.build_graph("r1zero")
    rooms = sorted(m for m in graph.find_children("r1zero") if graph.find_children(m))
    edges = {
        (a, b)
        for a in rooms
        for b in rooms
        if a != b and graph.direct_import_exists(importer=a, imported=b, as_packages=True)
    }
    reach = {a: {b for x, b in edges if x == a} for a in rooms}
    for _ in rooms:
        reach = {a: below.union(*(reach[b] for b in below)) for a, below in reach.items()}
    kept = [(a, b) for a, b in sorted(edges) if not any((a, c) in edges and b in reach[c] for c in rooms if c != b)]
    short = lambda name: name.removeprefix("r1zero.")  # noqa: E731
    return "\n".join(["```mermaid", "graph TD", *(f"    {short(a)} --> {short(b)}" for a, b in kept), "```"])
