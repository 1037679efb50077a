"""One analysis: draw over temperatures, search for keywords, ask the judge, write figures and excerpts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from r1zero.batch import Prompt
from r1zero.errors import UserError
from r1zero.evaluate.build import Subject, sampling_of
from r1zero.evaluate.metrics import add_answer_groups
from r1zero.evaluate.results import model_title
from r1zero.evaluate.run import progress, raise_if_missing, with_folder
from r1zero.evaluate.store import ResponseStore, check_draw, describe_draw, outcomes_of, record_draw
from r1zero.lab.analysis import measures
from r1zero.lab.analysis.agreement import measure_agreement
from r1zero.lab.analysis.checks import TASKS
from r1zero.lab.analysis.config import AnalyzeConfig
from r1zero.lab.analysis.excerpts import write_page
from r1zero.lab.analysis.figures import write_models
from r1zero.lab.analysis.judge import Tally, judge_of
from r1zero.lab.analysis.protocol import SCREENING, SECOND, choose_template, second_stage
from r1zero.lab.analysis.results import SET, build, show
from r1zero.launch.console import console, titled
from r1zero.launch.files import whole, write_json
from r1zero.launch.run_folder import stack_versions
from r1zero.launch.seeding import derive_seed
from r1zero.reward.grader import Grader


def analyze(config: DictConfig, run_dir: Path) -> int:
    """Analyse a model, or continue an analysis.

    Returns:
        exit code 0.

    Raises:
        UserError: whatever the user can mend; what a server or the judge did not give is among it.
    """
    job = measure_agreement if config.labelled else _analyze
    with_folder(config, run_dir, job, (run_dir / SCREENING).is_dir())
    return 0


def _analyze(cfg: AnalyzeConfig, run_dir: Path, accept: Callable[[], None]) -> None:
    choice = None
    accept = once(accept)
    if cfg.templates:
        cfg, choice = choose_template(cfg, run_dir, lambda trial, folder: study(trial, folder, run_dir, accept))
    study(cfg, run_dir, run_dir, accept, choice)


def once(accept: Callable[[], None]) -> Callable[[], None]:
    """Call a function at the first time alone: several analyses share a folder."""
    called: list[bool] = []

    def call() -> None:
        if not called:
            called.append(True)
            accept()

    return call


def study(
    cfg: AnalyzeConfig, run_dir: Path, home: Path, accept: Callable[[], None], choice: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One analysis under one template: draw, search, judge, write.

    Args:
        cfg: its settings.
        run_dir: its folder.
        home: the folder that the user resumes; pictures are drawn and figures printed where both are the same.
        accept: called once the settings fit what is in the folder.
        choice: how the template was chosen, for analysis.json.

    Returns:
        what analysis.json holds.

    Raises:
        UserError: responses or labels are missing; what came is written.
    """
    started = time.perf_counter()
    subject = Subject(cfg, {SET: cfg.data})
    prompts = choose_questions(subject.prompts[SET], cfg.questions, cfg.seed)
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
    first, missing, store, tally = measured(cfg, subject, prompts, run_dir, home, accept)
    results = build(cfg, first, title, subject.describe(), tally) | {"missing": missing, "choice": choice}
    table, stage = first, 1
    # Not before the first stage is whole: what is missing decides which questions reflect.
    whole_first = not tally.failed and not any(missing.values())
    second = second_stage(cfg, first) if whole_first else None
    if second is not None:
        again, places = second
        folder, stage = run_dir / SECOND, 2
        chosen = [prompts[place] for place in places]
        table, further, more_store, more = measured(again, subject, chosen, folder, home, accept, ("reflection",))
        table = table.assign(question=[places[place] for place in table["question"]])
        missing = missing | {f"{SECOND}/{name}": count for name, count in further.items()}
        tally.failed, tally.reasons = tally.failed + more.failed, tally.reasons + more.reasons
        store.failures += more_store.failures
        with whole(folder / "responses.parquet") as aside:
            table.to_parquet(aside, index=False, write_page_checksum=True)
    gains = measures.reflection_gain(table)
    gain = measures.gain_summary(gains, cfg.bootstrap, cfg.seed)
    about = {"stage": stage, "samples": cfg.second_n if stage == 2 else cfg.sampling.n}
    results |= {"reflection_gain": gain and gain | about}
    results |= {"seconds": time.perf_counter() - started, "versions": stack_versions()}
    write_json(run_dir / "failures.json", {"failures": store.failures, "judge": sorted(set(tally.reasons))})
    write_json(run_dir / "analysis.json", results)
    with whole(run_dir / "responses.parquet") as aside:
        first.to_parquet(aside, index=False, write_page_checksum=True)
    with whole(run_dir / "reflection_gain.csv") as aside:
        gains.to_csv(aside, index=False)
    if run_dir == home:
        shown = write_page(first, title, cfg.excerpts, run_dir / "excerpts.html")
        show(results, run_dir, shown, write_models([run_dir]))
    raise_if_missing(missing, store, run_dir, home)
    if tally.failed:
        raise UserError(
            f"the judge gave no answer to {tally.failed} questions ({tally.reasons[0]}); they are left out of all "
            f"figures: ask again with resume={home}"
        )
    return results


def measured(
    cfg: AnalyzeConfig,
    subject: Subject,
    prompts: list[Prompt],
    folder: Path,
    home: Path,
    accept: Callable[[], None],
    tasks: Sequence[str] = TASKS,
) -> tuple[pd.DataFrame, dict[str, int], ResponseStore, Tally]:
    """Responses in a folder, graded, searched and judged: (table, missing ones, their store, the judge's tally)."""
    subject.prompts = {SET: prompts}
    store = ResponseStore(folder / "responses", cfg.chunk, cfg.seed)
    tables, missing = draw(cfg, subject, prompts, store, folder, home, accept)
    table = measures.add_keywords(pd.concat(tables.values(), ignore_index=True))
    tally = judge_responses(cfg, table, tasks)
    return measures.add_reflection(table, cfg.judge.via != "none"), missing, store, tally


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
    home: Path,
    accept: Callable[[], None],
) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """Responses of every temperature, graded, and how many are missing."""
    sampling = sampling_of(cfg.sampling, subject.template, subject.stop_ids)
    about = describe_draw(subject.describe(), subject.template, sampling, cfg.seed, cfg.chunk, subject.prompts)
    about |= {"temperatures": list(cfg.temperatures)}
    check_draw(run_dir, about)
    accept()
    run_dir.mkdir(parents=True, exist_ok=True)
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
        raise_if_missing(missing, store, run_dir, home)
    return tables, missing


def judge_responses(cfg: AnalyzeConfig, table: pd.DataFrame, tasks: Sequence[str] = TASKS) -> Tally:
    """Fill the columns ``answering`` and ``reflection`` with the judge's labels; missing where it was not asked."""
    table["answering"] = pd.array([pd.NA] * len(table), dtype="Int64")
    table["reflection"] = pd.array([pd.NA] * len(table), dtype="Int64")
    config = cfg.judge
    if config.via == "none":
        return Tally()
    judge = judge_of(cfg)
    chosen = {
        "answering": table["sample"] < (config.answering_per_question or cfg.sampling.n),
        "reflection": table["keyword"] | (config.reflection == "all"),
    }
    for task in tasks:
        mask = chosen[task]
        rows = table[mask]
        with console.status(f"asking the judge about {len(rows)} responses ({task})"):
            labels = judge.label(task, list(zip(rows["text"], rows["response"], strict=True)))
        table.loc[mask, task] = pd.array(labels, dtype="Int64")
    return judge.tally
