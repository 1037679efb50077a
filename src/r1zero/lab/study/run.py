"""One study: pretrain every state, evaluate each in every template, write and print the matrix."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError
from r1zero.lab.study.config import StudyConfig
from r1zero.lab.study.matrix import read_matrix, write_matrix
from r1zero.launch import jobs, sweep
from r1zero.launch.arguments import options
from r1zero.launch.console import console, titled
from r1zero.launch.paths import quoted
from r1zero.launch.resume import record_settings
from r1zero.launch.run_folder import lock_folder, shown

ANOTHER_NAME = "start anew with another name=..."


def run(config: DictConfig, folder: Path, root: Path) -> int:
    """Make what is missing of a study in ``folder``; what has finished is left alone.

    Args:
        config: the composed config.
        folder: the study's folder: ``states/``, ``cells/``, and the matrix as CSV, JSON, PNG and SVG.
        root: folder of ``conf/`` and ``scripts/``.

    Returns:
        exit code 0.

    Raises:
        UserError: the settings make no study, or something in it failed; the matrix of the rest is written.
    """
    cfg: StudyConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    check(cfg, root)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    record_settings(folder, config)
    # One thread each: threads of two processes that wait for each other are many times slower.
    os.environ["OMP_NUM_THREADS"] = "1"
    cells = {(s, t): cell_folder(folder, s, t) for s in cfg.states for t in cfg.templates}
    console.print(
        titled(cfg.name, f": {len(cfg.states)} models x {len(cfg.templates)} templates; folder {shown(folder)}"),
        soft_wrap=True,
        highlight=False,
    )
    table = sweep.SweepTable(cfg.name, {state: folder / "states" / state for state in cfg.states})
    table.start()
    started = time.perf_counter()
    try:
        errors = jobs.Jobs(plan_jobs(cfg, folder, root), cfg.workers).run()
    finally:
        table.close()
        lock.close()
    matrix = read_matrix(cells, cfg.states)
    if matrix.cells:
        for line in write_matrix(matrix, folder, cfg.name):
            console.print(line, soft_wrap=True, highlight=False)
    console.print(f"{time.perf_counter() - started:.0f} s", highlight=False)
    if errors:
        name, error = next(iter(errors.items()))
        raise UserError(f"{len(errors)} part(s) of {cfg.name} failed, the first of them {name}: {error}")
    return 0


def cell_folder(folder: Path, state: str, template: str) -> Path:
    """Folder of one evaluation."""
    return folder / "cells" / f"{state}_{template}"


def check(cfg: StudyConfig, root: Path) -> None:
    """Refuse what makes no study. Raises ``UserError`` naming the key and the choices."""
    for key, chosen, group in (
        ("states", list(cfg.states), "pretrain/experiment"),
        ("templates", cfg.templates, "template"),
    ):
        known = options(root / "conf", group)
        if not chosen:
            raise UserError(f"{key} is empty: name some of {', '.join(known)}")
        for name in chosen:
            if name not in known:
                raise UserError(f"{key}: {name} is no option of conf/{group}; choose from {', '.join(known)}")


def plan_jobs(cfg: StudyConfig, folder: Path, root: Path) -> list[jobs.Job]:
    """A pretraining per state, and an evaluation per cell once its state is made."""
    found = []
    for state in cfg.states:
        run_one = partial(jobs.pretraining, root, state, folder / "states" / state, cfg.pretraining, ANOTHER_NAME)
        found.append(jobs.Job(state, run_one))
    for state in cfg.states:
        for template in cfg.templates:
            found.append(
                jobs.Job(f"{state}/{template}", partial(evaluate, cfg, folder, root, state, template), (state,))
            )
    return found


def evaluate(cfg: StudyConfig, folder: Path, root: Path, state: str, template: str) -> str:
    """Evaluate one state in one template with scripts/evaluate.py."""
    console.print(f"evaluating {state} with template {template}", highlight=False)
    policy = folder / "states" / state / "policy"
    overrides = ["model=folder", f"model.path={quoted(policy)}", f"template={template}", *cfg.evaluation]
    script, where = root / "scripts" / "evaluate.py", cell_folder(folder, state, template)
    return jobs.process(script, overrides, where, advice=ANOTHER_NAME)
