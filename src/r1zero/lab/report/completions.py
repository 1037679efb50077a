"""`scripts/report.py completions RUN [RUN]`: one offline page to browse the responses of a run, or of two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup

from r1zero.errors import UserError
from r1zero.lab.report.page import TEMPLATES, write

MOST = 20_000
"""Responses on a page; more make a browser slow."""

COLUMNS = ("step", "group", "question", "completion", "gold", "extracted", "reward", "right", "status", "rule",
           "tokens", "finish_reason", "advantage")  # fmt: skip


def completions_page(folders: Sequence[Path], out: Path | None = None, most: int = MOST) -> Path:
    """Write the page.

    Args:
        folders: one run, or two to compare on the same questions.
        out: file to write; None: ``completions.html`` in the first run.
        most: responses on the page. Where runs have more, whole steps are left out, evenly; the page says so.

    Raises:
        UserError: a folder without responses, or one that can't be read, or more than two folders.
    """
    if len(folders) > 2:
        raise UserError(f"{len(folders)} runs are named; the page shows one, or two beside each other")
    runs = [read_run(folder, most // len(folders)) for folder in folders]
    texts: dict[str, int] = {}
    rows = [row for number, run in enumerate(runs) for row in compact(run["table"], number, texts)]
    data = {
        "runs": [{k: v for k, v in run.items() if k != "table"} for run in runs],
        "questions": list(texts),
        "rows": rows,
    }
    # "<" can't stand in a script element: a response could close it.
    text = Markup(json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c"))
    title = " and ".join(str(run["name"]) for run in runs)
    page = TEMPLATES.get_template("completions.html.j2").render(title=title, data=text)
    return write(out or folders[0] / "completions.html", page)


def read_run(folder: Path, most: int) -> dict[str, Any]:
    """The responses of a run: as many whole steps as fit, evenly spread, the first and the last among them."""
    files = sorted((folder / "completions").glob("step_*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no completions/step_*.parquet: name the folder of a training run")
    steps: dict[int, list[Path]] = {}
    for file in files:
        steps.setdefault(int(file.stem.split("_")[1]), []).append(file)
    try:
        a_step = max(1, sum(pq.read_metadata(file).num_rows for file in steps[min(steps)]))
        wanted = max(2, most // a_step)
        names = sorted(steps)
        if len(names) > wanted:
            names = [names[round(i * (len(names) - 1) / (wanted - 1))] for i in range(wanted)]
        table = pd.concat([pd.read_parquet(file) for name in names for file in steps[name]], ignore_index=True)
    except Exception as error:
        raise UserError(f"the responses of {folder} can't be read: {error}") from error
    table["raw"] = raw_texts(table, folder)
    return {
        "name": f"{folder.absolute().parent.name}/{folder.absolute().name}",
        "steps": names,
        "left_out": len(steps) - len(names),
        "table": table,
    }


def raw_texts(table: pd.DataFrame, folder: Path) -> list[str]:
    """Responses as sampled, special tokens included, where token ids and a tokenizer are there; else their text."""
    file = folder / "policy" / "tokenizer.json"
    if "ids" not in table or not file.is_file():
        return list(table["completion"])
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    ids = [[] if row is None or isinstance(row, float) else [int(i) for i in row] for row in table["ids"]]
    decoded = tokenizer.decode_batch(ids, skip_special_tokens=False)
    return [raw or text for raw, text in zip(decoded, table["completion"], strict=True)]


def compact(table: pd.DataFrame, run: int, texts: dict[str, int]) -> Iterator[list[Any]]:
    """Rows as short lists: run, question's number, then COLUMNS without the question, then the text as sampled."""
    for row in table.to_dict("records"):
        question = texts.setdefault(str(row["question"]), len(texts))
        gold = " | ".join(str(g) for g in row["gold"]) if not isinstance(row["gold"], str) else row["gold"]
        raw = row["raw"] if row["raw"] != row["completion"] else ""
        values = {**row, "question": question, "gold": gold, "right": int(row["right"])}
        values["extracted"] = None if pd.isna(row["extracted"]) else str(row["extracted"])
        for name in ("reward", "advantage"):
            values[name] = round(float(row[name]), 4)
        yield [run, *(values.get(name) for name in COLUMNS), raw]
