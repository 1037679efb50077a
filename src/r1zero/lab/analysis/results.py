"""analysis.json, and what an analysis prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from r1zero.errors import UserError
from r1zero.evaluate.metrics import summarize, whole_questions
from r1zero.evaluate.results import percent
from r1zero.lab.analysis import measures
from r1zero.lab.analysis.config import AnalyzeConfig, JudgeConfig
from r1zero.lab.analysis.judge import Tally
from r1zero.launch.console import console
from r1zero.launch.seeding import derive_seed

SET = "questions"


def build(cfg: AnalyzeConfig, table: pd.DataFrame, title: str, model: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """The figures of a table of graded, searched and judged responses, and what they come from."""
    judged = cfg.judge.via != "none"
    return {
        "kind": "analysis",
        "name": cfg.name,
        "title": title,
        "model": model,
        "template": cfg.template.name,
        "data": cfg.data.name,
        "sampling": {k: v for k, v in vars(cfg.sampling).items() if k != "temperature"},
        "seed": cfg.seed,
        "dry": cfg.dry,
        "questions": int(table["question"].nunique()),
        "responses": len(table),
        "pass_k": cfg.pass_k,
        "judged": judged,
        "judge": judge_facts(cfg.judge, tally),
        "reflection_by": "keyword and judge" if judged else "keyword",
        "temperatures": {f"{t:g}": temperature_figures(cfg, rows, t) for t, rows in table.groupby("temperature")},
        "keywords": measures.keyword_counts(table),
        "levels": measures.outcomes_by_level(table),
        "lengths": measures.lengths_by_class(table),
    }


def judge_facts(config: JudgeConfig, tally: Tally) -> dict[str, Any]:
    """What the judge was and what it came to."""
    about = {"name": config.name, "model": config.model, "reflection": config.reflection}
    counts = {k: v for k, v in vars(tally).items() if k != "reasons"}
    return about | counts | {"cost": tally.cost(config.price_in, config.price_out)}


def temperature_figures(cfg: AnalyzeConfig, rows: pd.DataFrame, temperature: Any) -> dict[str, Any]:
    """All figures of one temperature."""
    n = cfg.sampling.n
    seed = derive_seed(cfg.seed, "temperature", f"{temperature:g}")
    whole = whole_questions(rows, n)
    if whole.empty:
        raise UserError(f"no question has all its {n} responses at temperature {temperature:g}; resume the analysis")
    figures = summarize(SET, whole, n, cfg.bootstrap, seed).summary
    answers = rows.assign(answering=rows["answering"].astype("Int64"))
    figures["answering"] = measures.mean_over_questions(answers, "answering", cfg.bootstrap, seed)
    figures["reflection"] = measures.reflection_figures(rows, cfg.bootstrap, seed)
    return figures


def share_answering(results: dict[str, Any]) -> float:
    """Share of responses that answer, over all temperatures; without a judge that with an answer in place."""
    rows = results["temperatures"].values()
    if not results["judged"]:
        return float(sum(row["formatted_frac"] for row in rows) / len(rows))
    found = [row["answering"]["value"] for row in rows if row["answering"]]
    return float(sum(found) / len(found)) if found else 0.0


def show(results: dict[str, Any], run_dir: Path, shown: int, pictures: Sequence[Path]) -> None:
    """Print the figures and where the files are."""
    k = results["pass_k"]
    table = Table(title=results["title"], caption="in %, with 95 % intervals over questions")
    columns = ("answering", "accuracy", f"pass@{k}", "reflection/response", "reflection/question", "truncated")
    for column in ("temperature", *columns):
        table.add_column(column, justify="right")
    for temperature, row in results["temperatures"].items():
        both = row["reflection"]["both"]
        cells = [row["answering"], row["accuracy"], row["pass@k"][str(k)], both["per_response"], both["per_question"]]
        texts = ["-" if cell is None else percent(cell) for cell in cells]
        table.add_row(temperature, *texts, f"{100 * row['truncated_frac']:.1f}")
    console.print(table)
    show_gain(results["reflection_gain"])
    judge = results["judge"]
    if results["judged"]:
        cost = "" if judge["cost"] is None else f", ${judge['cost']:.4f}"
        console.print(
            f"judge {judge['model']}: {judge['asked']} answers, {judge['cached']} from the cache, "
            f"{judge['unparsable']} unparsable, {judge['failed']} failed; {judge['tokens_in']:,} tokens read, "
            f"{judge['tokens_out']:,} written{cost}"
        )
    else:
        console.print("no judge: answering is not measured, self-reflection is by keywords alone")
    console.print(f"  {shown} excerpts: {run_dir / 'excerpts.html'}", soft_wrap=True)
    for path in (run_dir / "analysis.json", run_dir / "responses.parquet", *pictures):
        console.print(f"  {path}", soft_wrap=True)


def show_gain(gain: dict[str, Any] | None) -> None:
    """Print Fig. 15 in one line."""
    if gain is None:
        return
    stage = f", {gain['samples']} responses each" if gain["stage"] == 2 else ""
    console.print(
        f"accuracy with minus without self-reflection: mean {percent(gain)} points, median "
        f"{100 * gain['median']:.1f}, over {gain['questions']} questions{stage}"
    )
