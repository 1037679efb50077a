"""Runs the stages that are missing, one process each, and writes the table."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from r1zero.data.sources import check_source
from r1zero.errors import UserError
from r1zero.lab.pipeline.config import PipelineConfig
from r1zero.lab.pipeline.stages import Stage, check_order, plan
from r1zero.launch import sweep
from r1zero.launch.console import console, titled
from r1zero.launch.files import read_json, write_json
from r1zero.launch.resume import record_settings
from r1zero.launch.run_folder import lock_folder, shown
from r1zero.ranges import check_ranges
from r1zero.train.checks import check_known, check_set

ANOTHER_NAME = "start anew with another name=..."
ADVICE = "the same command continues with what is missing"


def run(config: DictConfig, folder: Path, root: Path) -> int:
    """Evaluate, pretrain, evaluate, RL-tune, evaluate; leave the table in ``folder``.

    Args:
        config: of ``conf/pipeline.yaml``.
        folder: of the pipeline; finished stages in it are left alone.
        root: of the checkout.

    Returns:
        exit code 0.

    Raises:
        UserError: whatever the user can mend, before any long work where it can be known before.
    """
    cfg = check(config)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())  # commands are shown as a user would type them
    stages = plan(cfg, folder, root)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        record_settings(folder, config)
        check_order(stages)
        prepare(cfg, stages, folder)
        for number, stage in enumerate(stages, start=1):
            run_stage(stage, f"{number}/{len(stages)}", folder)
        report(stages, folder, cfg.seed)
    finally:
        lock.close()
    return 0


def check(config: DictConfig) -> PipelineConfig:
    """The settings as an object, once what they name is there. Raises ``UserError``."""
    check_set(config)
    check_known(config)
    check_ranges(config)
    cfg: Any = OmegaConf.to_object(config)
    for data in (cfg.data, *cfg.benchmarks.values()):
        check_source(data)
    return cfg


def prepare(cfg: PipelineConfig, stages: list[Stage], folder: Path) -> None:
    """Look at everything that the stages will ask for, and split the questions.

    Each command that is still to run checks its own settings, so a misspelt one is found before an hour's work.

    Raises:
        UserError: the model is missing, a file is missing, or a command refuses its settings.
    """
    todo = [stage for stage in stages if not stage.finished()]
    if not todo:
        return
    console.print("checking the settings of all stages", highlight=False)
    from r1zero.lab.pipeline.questions import prepare as split
    from r1zero.learn.policy import resolve_model

    resolve_model(cfg.model)
    asked, held, dropped = split(cfg.data, cfg.heldout, cfg.seed, folder)
    console.print(f"  {asked} questions for RL, {held} held out; {dropped} left out, being like one that is held out")
    seen: set[str] = set()
    for stage in todo:
        if stage.kind not in seen:
            seen.add(stage.kind)
            try_out(stage)


def try_out(stage: Stage) -> None:
    """Let a stage's command look at its settings without doing anything. Raises ``UserError`` with what it says."""
    extra = ["dry=true"] if stage.kind == "pretrain" else ["--cfg", "job"]
    done = subprocess.run(
        [sys.executable, str(stage.script), *stage.arguments, *extra],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{stage.title} refuses its settings: {lines[-1] if lines else f'code {done.returncode}'}")


def run_stage(stage: Stage, place: str, folder: Path) -> None:
    """Run a stage, or go on with it, or leave it alone where it is finished.

    Raises:
        UserError: it failed, or its folder holds a run with other settings.
    """
    done = stage.finished()
    console.print(titled(f"stage {place}: {stage.title}", " (finished before)" if done else ""))
    if not done:
        console.print(f"  {stage.command()}", soft_wrap=True, highlight=False, markup=False)
    begun, cpu = time.perf_counter(), children_cpu()
    with Tail(stage.log):
        try:
            code = sweep.run_point(str(stage.script), stage.arguments, stage.folder, None, ANOTHER_NAME)
        finally:
            if not done:
                add_seconds(folder, stage.name, time.perf_counter() - begun, children_cpu() - cpu)
    if code or not stage.finished():
        raise UserError(f"{stage.title} failed: {sweep.why(stage.folder)} (log: {shown(stage.log)}); {ADVICE}")


def report(stages: list[Stage], folder: Path, seed: int) -> None:
    """Write the table and print it."""
    from r1zero.lab.pipeline import results

    found = results.collect(stages, stored_seconds(folder), seed)
    files = results.write(found, folder)
    console.print(results.results_table(found))
    console.print(results.times_line(found, {s.name: s.title for s in stages}), soft_wrap=True)
    for file in files:
        console.print(f"  {shown(file)}", soft_wrap=True)


def children_cpu() -> float:
    """CPU seconds of all processes that were started here and have ended: other load does not change them much."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stored_seconds(folder: Path) -> dict[str, dict[str, float]]:
    """{"wall", "cpu": seconds} of the stages so far, over all starts."""
    file = folder / "seconds.json"
    return read_json(file) if file.is_file() else {}


def add_seconds(folder: Path, stage: str, wall: float, cpu: float) -> None:
    """Count a start of a stage."""
    stored = stored_seconds(folder)
    before = stored.get(stage, {"wall": 0.0, "cpu": 0.0})
    stored[stage] = {"wall": round(before["wall"] + wall, 1), "cpu": round(before["cpu"] + cpu, 1)}
    write_json(folder / "seconds.json", stored)


class Tail(threading.Thread):
    """Prints what is added to a log file while a stage runs."""

    def __init__(self, log: Path) -> None:
        super().__init__(daemon=True, name="tail")
        self.log, self.ended = log, threading.Event()
        self.position = log.stat().st_size if log.is_file() else 0

    def __enter__(self) -> Tail:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        """Look twice a second; once more at the end."""
        while not self.ended.wait(0.5):
            self.show()
        self.show()

    def show(self) -> None:
        """Print the whole lines that are new."""
        if not self.log.is_file():
            return
        with self.log.open("rb") as file:
            file.seek(self.position)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.position += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            console.print(f"    {line}", soft_wrap=True, highlight=False, markup=False)
