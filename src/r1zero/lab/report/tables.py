"""Measured results beside the paper's: which row a run repeats, the difference, and what the interval says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from r1zero.errors import UserError
from r1zero.launch.files import read_json

COLUMNS = {
    "aime24": "AIME24",
    "amc": "AMC",
    "math500": "MATH500",
    "minerva": "Minerva",
    "olympiadbench": "Olympiad",
    "average": "average",
}
"""Columns of the paper's tables; sets that they lack come after them."""
ROUNDING = 0.05 + 1e-9
"""The paper's values have one decimal."""
WIDE = 5.0
"""An interval that reaches further than this to one side, in points, agrees with too much to count as agreement."""


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 1 or 4, and the settings by which a run is known to repeat it."""

    table: int
    row: str
    values: dict[str, float]
    model: str = ""
    template: str = ""
    max_tokens: int = 0
    file: str = ""
    meant: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One figure in percent: measured with its 95 % interval, and the paper's where there is one.

    ``meant`` is what the paper's printed value stands for where that is a misprint; ``note`` says so.
    """

    value: float
    low: float
    high: float
    paper: float | None = None
    meant: float | None = None
    note: str = ""

    @property
    def expected(self) -> float | None:
        """The paper's value that the measured one is compared with."""
        return self.paper if self.meant is None else self.meant

    @property
    def difference(self) -> float | None:
        """Measured minus paper, in points."""
        return None if self.expected is None else self.value - self.expected

    @property
    def verdict(self) -> str:
        """Whether the interval, the paper's rounding allowed for, holds its value; "" without one."""
        if self.expected is None:
            return ""
        if not self.low - ROUNDING <= self.expected <= self.high + ROUNDING:
            return "differs"
        return "agrees" if max(self.value - self.low, self.high - self.value) <= WIDE else "too few samples"


@dataclass(frozen=True)
class Line:
    """One evaluation in the report."""

    title: str
    row: PaperRow | None
    cells: dict[str, Cell] = field(default_factory=dict)


def paper_rows(conf: Path) -> list[PaperRow]:
    """The rows of Tables 1 and 4 that stand in ``conf/experiment/table*/*.yaml``."""
    rows = []
    for path in sorted((conf / "experiment").glob("table*/*.yaml")):
        content = yaml.safe_load(path.read_text())
        chosen = {k.removeprefix("override /"): v for item in content["defaults"] for k, v in item.items()}
        paper = content["paper"]
        rows.append(
            PaperRow(
                paper["table"],
                paper["row"],
                {name: float(value) for name, value in paper["values"].items()},
                chosen["model"],
                chosen["template"],
                content["sampling"]["max_tokens"],
                f"{path.parent.name}/{path.stem}",
                paper.get("meant", {}),
                paper.get("notes", {}),
            )
        )
    return rows


def read_evaluations(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Every results.json of an evaluation in or below the folders, oldest folder name first.

    Gradings again (``rescored``) are taken where they are named themselves.

    Raises:
        UserError: a folder is missing or holds none.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder} does not exist")
        paths = [p for p in sorted(folder.rglob("results.json")) if "rescored" not in p.relative_to(folder).parts]
        here = {}
        for path in paths:
            content = read_json(path)
            if content.get("kind") == "evaluation" and content.get("sets"):
                here[path.resolve()] = content
        if not here:
            raise UserError(f"{folder} holds no finished evaluation (results.json); make one with scripts/evaluate.py")
        found |= here
    return list(found.values())


def find_row(results: dict[str, Any], rows: Sequence[PaperRow]) -> PaperRow | None:
    """The row that an evaluation repeats: the one its experiment names, or one of equal model, template and limit."""
    named = results.get("paper")
    if named:
        if results["model"]["name"] == "tiny":
            return None  # a dry run of the row, with another model
        meant, notes = named.get("meant") or {}, named.get("notes") or {}
        return PaperRow(named["table"], named["row"], named["values"], meant=meant, notes=notes)
    for row in rows:
        if (row.model, row.template) == (results["model"]["name"], results["template"]) and row.model != "folder":
            greedy = results["sampling"]["temperature"] == 0
            if greedy and row.max_tokens == results["sampling"]["max_tokens"]:
                return row
    return None


def line_of(results: dict[str, Any], rows: Sequence[PaperRow]) -> Line:
    """One evaluation as a line of the report, figures in percent."""
    row = find_row(results, rows)
    model = results["model"]
    name = model["path"] if model["name"] in ("folder", "server") else model["name"]
    title = row.row if row else f"{name}, template {results['template']}"
    own = {r.row: r.model for r in rows}.get(row.row) if row else None
    notes = [f"with {name}"] if own not in (None, "folder", model["name"]) else []
    notes += [f"first {results['limit']} questions"] if results.get("limit") else []
    notes += ["dry run"] if results.get("dry") else []
    notes += ["incomplete"] if any((results.get("missing") or {}).values()) else []
    title += f" ({', '.join(notes)})" if notes else ""
    figures = dict(results["sets"])
    if len(figures) > 1:
        figures["average"] = results["average"]
    cells = {}
    for key, figure in figures.items():
        value, low, high = (100 * figure["accuracy"][part] for part in ("value", "low", "high"))
        paper = row.values.get(key) if row else None
        if key == "average" and row and set(row.values) - {"average"} != set(results["sets"]):
            paper = None  # an average over other sets
        meant, note = (row.meant.get(key), row.notes.get(key, "")) if row and paper is not None else (None, "")
        cells[key] = Cell(value, low, high, paper, meant, note)
    return Line(title, row, cells)


def grid(lines: Sequence[Line]) -> tuple[list[str], list[list[list[str]]]]:
    """Header and, per evaluation, its rows of texts: measured, paper, difference, verdict."""
    present = {key for line in lines for key in line.cells}
    keys = [key for key in COLUMNS if key in present and key != "average"]
    keys += sorted(present - set(COLUMNS)) + (["average"] if "average" in present else [])
    blocks = []
    for line in lines:
        cells = [line.cells.get(key) for key in keys]
        title = f"Table {line.row.table}: {line.title}" if line.row else line.title
        block = [[title, "measured", *(_measured(cell) for cell in cells)]]
        if any(cell and cell.paper is not None for cell in cells):
            block.append(["", "paper", *(_printed(cell) for cell in cells)])
            block.append(["", "difference", *(_text(cell.difference if cell else None, "+.1f") for cell in cells)])
            block.append(["", "verdict", *(cell.verdict if cell else "" for cell in cells)])
        blocks.append(block)
    return ["", "accuracy in %", *(COLUMNS.get(key, key) for key in keys)], blocks


def notes(lines: Sequence[Line]) -> list[str]:
    """What there is to say about the paper's values that are marked with an asterisk, each once."""
    found = [
        f"* Table {line.row.table}, {line.row.row}, {COLUMNS.get(key, key)}: {cell.note}"
        for line in lines
        for key, cell in line.cells.items()
        if line.row and cell.note
    ]
    return list(dict.fromkeys(found))


def as_text(lines: Sequence[Line]) -> str:
    """Columns aligned by spaces."""
    header, blocks = grid(lines)
    rows = [header, *(row for block in blocks for row in block)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    made = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    rule = "-" * max(map(len, made))
    out, at = [made[0], rule], 1
    for block in blocks:
        out += [*made[at : at + len(block)], rule]
        at += len(block)
    return "\n".join([*out, *notes(lines)]) + "\n"


def as_markdown(lines: Sequence[Line]) -> str:
    """A pipe table."""
    header, blocks = grid(lines)
    out = [header, ["---", "---", *("---:" for _ in header[2:])], *(row for block in blocks for row in block)]
    table = ["| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in row) + " |" for row in out]
    remarks = ["", *(f"\\{note}" for note in notes(lines))] if notes(lines) else []
    return "\n".join([*table, *remarks]) + "\n"


def as_latex(lines: Sequence[Line]) -> str:
    """A ``tabular`` that needs no package."""
    header, blocks = grid(lines)
    body = [_latex_row(header), "\\hline"]
    for block in blocks:
        body += [*(_latex_row(row) for row in block), "\\hline"]
    columns = "ll" + "r" * (len(header) - 2)
    return (
        "\n".join([f"\\begin{{tabular}}{{{columns}}}", "\\hline", *body, "\\end{tabular}"])
        + "\n"
        + "".join(f"\n{_latex(note)}\n" for note in notes(lines))
    )


FORMATS = {"text": as_text, "markdown": as_markdown, "latex": as_latex}


def report(folders: Sequence[Path], conf: Path, style: str = "text") -> str:
    """The report over all evaluations in some folders; rows of the paper first.

    Raises:
        UserError: there is no evaluation.
    """
    return FORMATS[style](lines_of(folders, conf))


def lines_of(folders: Sequence[Path], conf: Path) -> list[Line]:
    """All evaluations in some folders, rows of the paper first.

    Raises:
        UserError: there is no evaluation.
    """
    rows = paper_rows(conf)
    order = {(row.table, row.row): place for place, row in enumerate(rows)}
    lines = [line_of(results, rows) for results in read_evaluations(folders)]
    lines.sort(key=lambda line: order.get((line.row.table, line.row.row), len(rows)) if line.row else len(rows))
    return lines


def _measured(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.value:.1f} [{cell.low:.1f}, {cell.high:.1f}]"


def _text(value: float | None, pattern: str) -> str:
    return "" if value is None else format(value, pattern)


def _printed(cell: Cell | None) -> str:
    """The paper's value as printed, with an asterisk where there is a note."""
    return "" if cell is None or cell.paper is None else f"{cell.paper:.1f}{'*' if cell.note else ''}"


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    return [
        cell.ljust(width) if i < 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _latex_row(row: list[str]) -> str:
    return " & ".join(map(_latex, row)) + " \\\\"


def _latex(text: str) -> str:
    return "".join(f"\\{c}" if c in "%&_#$" else c for c in text.replace("\\", "/"))
