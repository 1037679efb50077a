"""One analysis: draw over temperatures, search for keywords, ask the judge, write figures and excerpts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich.table import Table

from r1zero.batch import Prompt
from r1zero.errors import UserError
from r1zero.evaluate.build import Subject, sampling_of
from r1zero.evaluate.metrics import add_answer_groups, summarize, whole_questions
from r1zero.evaluate.results import model_title, percent, write_json
from r1zero.evaluate.run import progress, raise_if_missing, with_folder
from r1zero.evaluate.store import ResponseStore, check_draw, describe_draw, outcomes_of, record_draw
from r1zero.lab.analysis import measures, plots
from r1zero.lab.analysis.cache import AnswerCache
from r1zero.lab.analysis.config import AnalyzeConfig, JudgeConfig
from r1zero.lab.analysis.excerpts import write_page
from r1zero.lab.analysis.judge import Judge, Tally, model_asker, server_asker
from r1zero.launch.console import console, titled
from r1zero.launch.files import whole
from r1zero.launch.run_folder import stack_versions
from r1zero.launch.seeding import derive_seed
from r1zero.reward.grader import Grader

SET = "questions"


def analyze(config: DictConfig, run_dir: Path) -> int:
    """Analyse a model, or go on with an analysis.

    Returns:
        exit code 0.

    Raises:
        UserError: whatever the user can mend; what a server or the judge did not give is among it.
    """
    with_folder(config, run_dir, _analyze)
    return 0


def _analyze(cfg: AnalyzeConfig, run_dir: Path, accept: Callable[[], None]) -> None:
    started = time.perf_counter()
    subject = Subject(cfg, {SET: cfg.data})
    prompts = choose_questions(subject.prompts[SET], cfg.questions, cfg.seed)
    subject.prompts = {SET: prompts}
    title = f"{model_title(subject.describe())}, template {cfg.template.name}"
    total = len(prompts) * cfg.sampling.n * len(cfg.temperatures)
    console.print(
        titled(
            title,
            f": {len(prompts)} questions of {cfg.data.name}, {cfg.sampling.n} response(s) at each of "
            f"{len(cfg.temperatures)} temperatures ({total:,} in all); folder {run_dir}",
        ),
        soft_wrap=True,
    )
    store = ResponseStore(run_dir / "responses", cfg.chunk, cfg.seed)
    tables, missing = draw(cfg, subject, prompts, store, run_dir, accept)
    table = measures.add_keywords(pd.concat(tables.values(), ignore_index=True))
    tally = judge_responses(cfg, table)
    judged = cfg.judge.via != "none"
    table = measures.add_reflection(table, judged)
    gains = measures.reflection_gain(table)
    results: dict[str, Any] = {
        "kind": "analysis",
        "name": cfg.name,
        "title": title,
        "model": subject.describe(),
        "template": cfg.template.name,
        "data": cfg.data.name,
        "sampling": {k: v for k, v in vars(cfg.sampling).items() if k != "temperature"},
        "seed": cfg.seed,
        "dry": cfg.dry,
        "questions": len(prompts),
        "responses": len(table),
        "missing": missing,
        "pass_k": cfg.pass_k,
        "judged": judged,
        "judge": judge_facts(cfg.judge, tally),
        "reflection_by": "keyword and judge" if judged else "keyword",
        "temperatures": {f"{t:g}": temperature_figures(cfg, rows, t) for t, rows in table.groupby("temperature")},
        "keywords": measures.keyword_counts(table),
        "reflection_gain": measures.gain_summary(gains, cfg.bootstrap, cfg.seed),
        "seconds": time.perf_counter() - started,
        "versions": stack_versions(),
    }
    write_json(run_dir / "failures.json", {"failures": store.failures, "judge": sorted(set(tally.reasons))})
    write_json(run_dir / "analysis.json", results)
    with whole(run_dir / "responses.parquet") as aside:
        table.to_parquet(aside, index=False, write_page_checksum=True)
    with whole(run_dir / "reflection_gain.csv") as aside:
        gains.to_csv(aside, index=False)
    plots.draw_overview(results, run_dir / "overview.png")
    plots.draw_keywords(results, run_dir / "keywords.png")
    plots.draw_gain(gains, results, run_dir / "reflection_gain.png")
    shown = write_page(table, title, cfg.excerpts, run_dir / "excerpts.html")
    _print(results, run_dir, shown)
    raise_if_missing(missing, store, run_dir)
    if tally.failed:
        raise UserError(
            f"the judge gave no answer to {tally.failed} questions ({tally.reasons[0]}); they are left out of all "
            f"figures: ask again with resume={run_dir}"
        )


def choose_questions(prompts: list[Prompt], count: int, seed: int) -> list[Prompt]:
    """``count`` prompts at random, in their order.

    Raises:
        UserError: there are not as many.
    """
    if count > len(prompts):
        raise UserError(f"questions={count} is more than the {len(prompts)} usable questions of the set; lower it")
    order = np.random.default_rng(derive_seed(seed, "questions")).permutation(len(prompts))
    return [prompts[i] for i in sorted(order[:count])]


def draw(
    cfg: AnalyzeConfig,
    subject: Subject,
    prompts: list[Prompt],
    store: ResponseStore,
    run_dir: Path,
    accept: Callable[[], None],
) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """Responses of every temperature, graded, and how many are missing."""
    sampling = sampling_of(cfg.sampling, subject.template, subject.stop_ids)
    about = describe_draw(subject.describe(), subject.template, sampling, cfg.seed, cfg.chunk, subject.prompts)
    about |= {"temperatures": list(cfg.temperatures)}
    check_draw(run_dir, about)
    accept()
    record_draw(run_dir, about)
    tables: dict[str, pd.DataFrame] = {}
    missing: dict[str, int] = {}
    with Grader(cfg.reward, extractor=subject.template.extractor) as grader:
        grader.check_functions()
        sampler = subject.sampler()
        try:
            for temperature in cfg.temperatures:
                name = f"temperature_{temperature:g}"
                own = sampling_of(cfg.sampling, subject.template, subject.stop_ids, temperature=temperature)
                with progress(name, len(prompts) * own.n) as advance:
                    store.collect(name, prompts, sampler, grader, own, advance)
        finally:
            sampler.close()
        for temperature in cfg.temperatures:
            name = f"temperature_{temperature:g}"
            rows = store.read(name)
            missing[name] = len(prompts) * cfg.sampling.n - len(rows)
            if len(rows):
                grader.check_health(outcomes_of(rows))
                tables[name] = add_answer_groups(rows, grader).assign(temperature=float(temperature))
    if not tables:
        raise_if_missing(missing, store, run_dir)
    return tables, missing


def judge_responses(cfg: AnalyzeConfig, table: pd.DataFrame) -> Tally:
    """Fill the columns ``answering`` and ``reflection`` with the judge's labels; missing where it was not asked."""
    table["answering"] = pd.array([pd.NA] * len(table), dtype="Int64")
    table["reflection"] = pd.array([pd.NA] * len(table), dtype="Int64")
    config = cfg.judge
    if config.via == "none":
        return Tally()
    cache = AnswerCache(Path(str(cfg.paths["outputs"])) / "judge" / f"{config.name}.jsonl")
    ask = (
        server_asker(config)
        if config.via == "server"
        else model_asker(config, cfg.rollout, derive_seed(cfg.seed, "judge"))
    )
    judge = Judge(config, cache, ask)
    chosen = {
        "answering": table["sample"] < (config.answering_per_question or cfg.sampling.n),
        "reflection": table["keyword"] | (config.reflection == "all"),
    }
    for task, mask in chosen.items():
        rows = table[mask]
        with console.status(f"asking the judge about {len(rows)} responses ({task})"):
            labels = judge.label(task, list(zip(rows["text"], rows["response"], strict=True)))
        table.loc[mask, task] = pd.array(labels, dtype="Int64")
    return judge.tally


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


def _print(results: dict[str, Any], run_dir: Path, shown: int) -> None:
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
    gain = results["reflection_gain"]
    if gain is not None:
        console.print(
            f"accuracy with minus without self-reflection: {percent(gain)} points over {gain['questions']} questions"
        )
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
    for name in ("analysis.json", "overview.png", "keywords.png", "reflection_gain.png", "responses.parquet"):
        console.print(f"  {run_dir / name}", soft_wrap=True)
