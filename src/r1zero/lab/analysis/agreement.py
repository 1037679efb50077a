"""How far a judge agrees with labels that were given by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from r1zero.errors import UserError
from r1zero.evaluate.intervals import estimates, resampled_means
from r1zero.evaluate.results import percent
from r1zero.lab.analysis.checks import TASKS
from r1zero.lab.analysis.config import AnalyzeConfig
from r1zero.lab.analysis.judge import judge_of
from r1zero.lab.analysis.measures import REFLECTS
from r1zero.launch.console import console
from r1zero.launch.files import parse_json, write_json

PACKAGED = "packaged"
"""Value of ``labelled`` that stands for the 40 responses of this package."""
CODE, ONE_GO = 3, 1
"""Only code; a prompt without this label calls it work in one go."""


def measure_agreement(cfg: AnalyzeConfig, run_dir: Path, accept: Callable[[], None]) -> None:
    """Let the judge label responses whose labels are known; write ``agreement.json`` and print a table.

    Raises:
        UserError: the file can't be read, or the judge gave no answer to some.
    """
    rows = read_labelled(
        Path(__file__).with_name("labelled.jsonl") if cfg.labelled == PACKAGED else Path(str(cfg.labelled))
    )
    accept()
    judge = judge_of(cfg)
    pairs = [(row["question"], row["response"]) for row in rows]
    found: dict[str, Any] = {"kind": "agreement", "judge": cfg.judge.model, "responses": len(rows), "tasks": {}}
    for task in TASKS:
        given = judge.label(task, pairs)
        labels = cfg.judge.prompts[task].labels
        truth = [row[task] if row[task] in labels else ONE_GO for row in rows]
        found["tasks"][task] = compare(truth, given, cfg.bootstrap, cfg.seed)
        if task == "reflection":
            known = [None if label is None else int(label == REFLECTS) for label in given]
            found["tasks"]["reflects"] = compare([int(t == REFLECTS) for t in truth], known, cfg.bootstrap, cfg.seed)
    found |= {"unparsable": judge.tally.unparsable, "failed": judge.tally.failed}
    write_json(run_dir / "agreement.json", found)
    show(found, run_dir)
    if judge.tally.failed:
        raise UserError(
            f"the judge gave no answer to {judge.tally.failed} questions ({judge.tally.reasons[0]}): ask again with "
            f"resume={run_dir}"
        )


def read_labelled(path: Path) -> list[dict[str, Any]]:
    """Rows with ``question``, ``response`` and the labels ``answering`` (0, 1) and ``reflection`` (0 to 3).

    Raises:
        UserError: naming the line that is none.
    """
    if not path.is_file():
        raise UserError(f'labelled={path} does not exist; "packaged" takes the 40 responses of the package')
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = parse_json(line)
            fits = row["answering"] in (0, 1) and row["reflection"] in (0, 1, 2, 3)
            fits = fits and all(isinstance(row[key], str) for key in ("question", "response"))
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise UserError(
                f"{path} line {number} must hold question and response as text, answering 0 or 1, reflection 0 to 3"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no responses")
    return rows


def compare(truth: Sequence[int], given: Sequence[int | None], resamples: int, seed: int) -> dict[str, Any]:
    """Agreement of two lists of labels.

    Args:
        truth: Labels by hand.
        given: Labels of the judge; None, an answer that can't be read, agrees with nothing.
        resamples: Of the responses, for the interval.
        seed: Of the resamples.

    Returns:
        agreement with its interval, Cohen's kappa over the readable answers, and the counts of (by hand, judge).
    """
    same = np.array([[float(a == b)] for a, b in zip(truth, given, strict=True)])
    share = estimates(same, resampled_means(same, resamples, seed))[0].as_dict()
    pairs = [(a, b) for a, b in zip(truth, given, strict=True) if b is not None]
    counts = Counter((str(a), "none" if b is None else str(b)) for a, b in zip(truth, given, strict=True))
    table = {f"{a} -> {b}": count for (a, b), count in sorted(counts.items())}
    return {"agreement": share, "kappa": kappa(pairs), "unparsable": len(given) - len(pairs), "counts": table}


def kappa(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Cohen's kappa: agreement beyond that of chance, over what chance leaves; None where chance leaves nothing."""
    if not pairs:
        return None
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / len(pairs)
    chance = sum(left[label] * right[label] for label in left) / len(pairs) ** 2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def show(found: dict[str, Any], run_dir: Path) -> None:
    """Print the table."""
    table = Table(title=f"judge {found['judge']} against {found['responses']} labels by hand", caption="agreement in %")
    for column in ("label", "agreement", "kappa", "unparsable", "by hand -> judge, where they differ"):
        table.add_column(column)
    for task, row in found["tasks"].items():
        differ = [f"{pair}: {n}" for pair, n in row["counts"].items() if len(set(pair.split(" -> "))) > 1]
        value = "-" if row["kappa"] is None else f"{row['kappa']:.2f}"
        table.add_row(task, percent(row["agreement"]), value, str(row["unparsable"]), ", ".join(differ) or "-")
    console.print(table)
    console.print(f"  {run_dir / 'agreement.json'}", soft_wrap=True)
