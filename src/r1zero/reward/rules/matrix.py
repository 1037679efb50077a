r"""Matrices and column vectors.

Grammar: the matrix environments, also `array` in brackets, with a factor in front.
Compares: entry by entry, the factor multiplied in; the kind of brackets does not count.
Pays: `pmatrix` for `bmatrix`, entries of equal value.
Never pays: another shape (a row for a column), another entry, a number for a matrix of one entry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    (r"\begin{bmatrix} 1 & 2 \\ 3 & 4\end{bmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", True),
    (r"\frac12\begin{pmatrix}2\\4\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\begin{pmatrix}1 & 2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
    ("5", r"\begin{pmatrix}5\end{pmatrix}", False),
)

_ENVIRONMENT = re.compile(
    r"(?P<front>.*?)(?P<open>\[|\()?\\begin\{(?P<name>[pbvBV]?matrix|smallmatrix|array)\}(?P<body>.*)\\end\{(?P=name)\}(?P<close>\]|\))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Matrix:
    """Rows of canonical entries, and what precedes the matrix ("" or a factor)."""

    rows: tuple[tuple[str, ...], ...]
    factor: str
    determinant: bool = False


@lru_cache(maxsize=16384)
def matrix(text: str) -> Matrix | None:
    """The matrix that the whole canonical text is, with an optional factor in front; None if it is not one."""
    match = _ENVIRONMENT.fullmatch(text)
    if match is None or "\\begin" in match["body"] or "\\begin" in match["front"]:
        return None
    if bool(match["open"]) != bool(match["close"]) or (match["name"] == "array" and not match["open"]):
        return None
    body = match["body"]
    if match["name"] == "array":
        body = re.sub(r"^\{[clr|]*\}", "", body)
    rows = [row for row in body.split("\\\\") if row.strip()]
    cells = tuple(tuple(cell.strip() for cell in row.split("&")) for row in rows)
    if not cells or any(len(row) != len(cells[0]) for row in cells) or any(not cell for row in cells for cell in row):
        return None
    return Matrix(cells, match["front"].strip(), match["name"][0] in "vV")


def matrices(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Matrices entry by entry, whatever their brackets; a row is not a column; a factor goes into the entries."""
    ours, theirs = matrix(answer), matrix(gold)
    if ours is None or theirs is None or ours.determinant != theirs.determinant:
        return None
    if len(ours.rows) != len(theirs.rows) or len(ours.rows[0]) != len(theirs.rows[0]):
        return False
    left = [_scaled(ours.factor, cell) for row in ours.rows for cell in row]
    right = [_scaled(theirs.factor, cell) for row in theirs.rows for cell in row]
    return all(compare(one, two) for one, two in zip(left, right, strict=True))


def _scaled(factor: str, cell: str) -> str:
    if not factor or factor == "+":
        return cell
    return f"-({cell})" if factor == "-" else f"({factor})({cell})"
