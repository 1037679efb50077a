"""One offline evaluation: draw what is missing, grade, summarise, write and print."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from r1zero.data.templates import template_of
from r1zero.errors import UserError
from r1zero.evaluate.build import Subject, sampling_of
from r1zero.evaluate.config import EvaluateConfig
from r1zero.evaluate.metrics import add_answer_groups
from r1zero.evaluate.plots import draw_bars
from r1zero.evaluate.rescore import regrade, stored_results
from r1zero.evaluate.results import build_results, results_table
from r1zero.evaluate.store import ResponseStore, check_draw, describe_draw, outcomes_of, record_draw
from r1zero.launch.console import console, titled
from r1zero.launch.files import whole, write_json
from r1zero.launch.number_format import settle
from r1zero.launch.resume import record_settings
from r1zero.launch.run_folder import run_folder, shown, stack_versions
from r1zero.reward.grader import Grader
from r1zero.rollout.choice import settle_engine

log = logging.getLogger("r1zero")


def evaluate(config: DictConfig, run_dir: Path) -> int:
    """Evaluate, continue an evaluation, or grade one again.

    Returns:
        exit code 0.

    Raises:
        UserError: whatever the user can mend; responses that a server did not give are among it.
    """
    with_folder(config, run_dir, _rescore if config.rescore else _evaluate)
    return 0


def with_folder(
    config: DictConfig, run_dir: Path, job: Callable[[Any, Path, Callable[[], None]], None], begun: bool = False
) -> None:
    """Hold the run folder while a job works in it; leave log, settings and status there.

    Args:
        config: the settings.
        run_dir: the folder; one that has responses is resumed.
        job: is given the settings as an object, the folder, and a function to call once they fit what is in the folder:
            nothing is written before.
        begun: whether the folder has work of another kind that is resumed.
    """
    begun = begun or (run_dir / "draw.json").is_file()
    with run_folder(run_dir, 0, begun) as status:
        for name in ("httpx", "httpx2", "openai"):
            logging.getLogger(name).setLevel(logging.WARNING)  # a line per request, otherwise

        def accept() -> None:
            status.accept()
            status.write("running")
            record_settings(run_dir, config)

        try:
            settle(config, run_dir)
            settle_engine(config, run_dir)
            job(OmegaConf.to_object(config), run_dir, accept)
        except KeyboardInterrupt:
            console.print(f"stopped; continue with resume={shown(run_dir)}", soft_wrap=True)
            raise
        status.write("finished")


def _evaluate(cfg: EvaluateConfig, run_dir: Path, accept: Callable[[], None]) -> None:
    started = time.perf_counter()
    subject = Subject(cfg, cfg.benchmarks)
    sampling = sampling_of(cfg.sampling, subject.template, subject.stop_ids)
    store = ResponseStore(run_dir / "responses", cfg.chunk, cfg.seed)
    draw = describe_draw(subject.describe(), subject.template, sampling, cfg.seed, cfg.chunk, subject.prompts)
    check_draw(run_dir, draw)
    accept()
    record_draw(run_dir, draw)
    overlaps = subject.overlaps()
    questions = sum(map(len, subject.prompts.values()))
    console.print(
        titled(
            cfg.model.name,
            f", template {cfg.template.name}: {questions} questions of "
            f"{', '.join(cfg.benchmarks)}, {sampling.n} response(s) each; folder {shown(run_dir)}",
        ),
        soft_wrap=True,
    )
    tables: dict[str, pd.DataFrame] = {}
    with Grader(cfg.reward, extractor=subject.template.extractor) as grader:
        grader.check_functions()
        sampler = subject.sampler()
        try:
            for name, prompts in subject.prompts.items():
                with progress(name, len(prompts) * sampling.n) as advance:
                    store.collect(name, prompts, sampler, grader, sampling, advance)
        finally:
            sampler.close()
        for name in subject.prompts:
            tables[name] = store.read(name)
            if len(tables[name]):
                tables[name] = add_answer_groups(tables[name], grader)
                grader.check_health(outcomes_of(tables[name]))
    facts: dict[str, Any] = {
        "name": cfg.name,
        "model": subject.describe(),
        "template": cfg.template.name,
        "sampling": vars(cfg.sampling),
        "seed": cfg.seed,
        "dry": cfg.dry,
        "limit": cfg.limit,
        "paper": vars(cfg.paper) if cfg.paper else None,
        "dropped": subject.dropped,
        "overlap": overlaps,
        "missing": {name: len(prompts) * sampling.n - len(tables[name]) for name, prompts in subject.prompts.items()},
        "reward": _plain(cfg.reward),
        "seconds": time.perf_counter() - started,
        "versions": stack_versions(),
    }
    write_json(run_dir / "failures.json", {"failures": store.failures})
    finish(run_dir, tables, cfg, facts)
    raise_if_missing(facts["missing"], store, run_dir)


def _rescore(cfg: EvaluateConfig, run_dir: Path, accept: Callable[[], None]) -> None:
    assert cfg.rescore is not None
    accept()
    folder = Path(cfg.rescore)
    old = stored_results(folder)
    store = ResponseStore(folder / "responses", cfg.chunk, cfg.seed)
    tables: dict[str, pd.DataFrame] = {}
    changed = 0
    with Grader(cfg.reward, extractor=template_of(cfg.template).extractor) as grader:
        grader.check_functions()
        for name in store.sets():
            table, count = regrade(store.read(name), grader)
            grader.check_health(outcomes_of(table))
            tables[name] = add_answer_groups(table, grader)
            changed += count
    tables = {name: tables[name] for name in old["sets"] if name in tables}
    kept = ("name", "model", "template", "sampling", "seed", "dry", "limit", "paper", "dropped", "overlap", "missing")
    facts = {key: old.get(key) for key in kept} | {"reward": _plain(cfg.reward), "versions": stack_versions()}
    facts |= {"rescored": {"folder": str(folder), "changed": changed}}
    finish(run_dir, tables, cfg, facts)
    console.print(
        f"{changed} of {sum(map(len, tables.values()))} verdicts differ from those in {folder}", soft_wrap=True
    )


def finish(run_dir: Path, tables: dict[str, pd.DataFrame], cfg: EvaluateConfig, facts: dict[str, Any]) -> None:
    """Write results, responses and chart; print the table and where things are."""
    results = build_results(tables, facts["sampling"]["n"], cfg.bootstrap, cfg.seed, facts)
    write_json(run_dir / "results.json", results)
    if not results["sets"]:
        return
    with whole(run_dir / "responses.parquet") as aside:
        pd.concat(tables.values()).to_parquet(aside, index=False, write_page_checksum=True)
    draw_bars(results, run_dir / "accuracy.png")
    console.print(results_table(results, cfg.pass_k))
    for name, found in (facts.get("overlap") or {}).items():
        console.print(
            f"  {name}: {found['exact']} questions are in {found['train']}, {found['near']} are near-duplicates"
        )
    for label, file in (("results", "results.json"), ("responses", "responses.parquet"), ("chart", "accuracy.png")):
        console.print(f"  {label:9s} {run_dir / file}", soft_wrap=True)


def raise_if_missing(missing: dict[str, int], store: ResponseStore, run_dir: Path, home: Path | None = None) -> None:
    """End with an error when responses are missing: none of them was counted as wrong.

    ``home`` is the folder to resume where that is not ``run_dir`` itself.
    """
    total = sum(missing.values())
    if total:
        reason = store.failures[0]["reason"] if store.failures else "unknown"
        raise UserError(
            f"{total} responses are missing ({reason}); they are left out of all figures and named in "
            f"{run_dir / 'failures.json'}: ask for them again with resume={home or run_dir}"
        )


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over the responses of one set; nothing where there is no terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("<"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.update(task, advance=count)


def _plain(reward: Any) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.structured(reward), resolve=True)  # type: ignore[return-value]
