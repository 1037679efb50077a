"""What a pipeline runs: five stages, each one command, and where each of them stands. Imports nothing heavy."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.lab.pipeline.config import PipelineConfig
from r1zero.launch import sweep
from r1zero.launch.arguments import expand
from r1zero.launch.resume import flatten
from r1zero.launch.run_folder import shown

HELDOUT = "heldout"
"""Name of the set of held-out questions, an option of ``conf/benchmarks``."""

RESULT = {"evaluate": "results.json", "pretrain": "policy/config.json", "train": "policy/config.json"}
"""What a finished stage has left in its folder."""

PLAIN = re.compile(r"[\w./:%+@?*|-]+")
"""Texts that Hydra's command line reads without quotes."""


@dataclass(frozen=True)
class Stage:
    """One command with a folder of its own."""

    name: str
    title: str
    script: Path
    arguments: tuple[str, ...]
    folder: Path
    needs: str | None = None
    """Stage whose model it takes; None: the pipeline's own."""

    @property
    def kind(self) -> str:
        """evaluate, pretrain or train."""
        return self.script.stem

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.folder / "console.log"

    def command(self) -> str:
        """The command line as a user would type it."""
        return shlex.join(["python", str(shown(self.script)), *self.arguments, f"hydra.run.dir={self.folder}"])

    def finished(self) -> bool:
        """Whether it has run to its end and its result is there."""
        return sweep.read_state(self.folder).state == "finished" and (self.folder / RESULT[self.kind]).is_file()


def plan(cfg: PipelineConfig, folder: Path, root: Path) -> list[Stage]:
    """The five stages in their order.

    Args:
        cfg: the pipeline's settings.
        folder: of the pipeline; each stage has one below it.
        root: of the checkout, where train.py and scripts/ are.

    Raises:
        UserError: settings that make no argument.
    """
    pretrain, train, evaluate = root / "scripts" / "pretrain.py", root / "train.py", root / "scripts" / "evaluate.py"
    seed = f"seed={cfg.seed}"
    first = base_arguments(cfg)
    pretrained, tuned = (folder_arguments(str(folder / name / "policy")) for name in ("pretrain", "train"))
    questions = ["data=file", f"data.path={spelled(str(questions_file(folder)))}"]
    sets = [f"benchmarks=[{','.join([HELDOUT, *cfg.benchmarks])}]"]
    sets += [f"benchmarks.{HELDOUT}.path={spelled(str(heldout_file(folder)))}"]
    sets += [
        f"benchmarks.{name}.path={spelled(data.path)}" for name, data in cfg.benchmarks.items() if data.path is not None
    ]
    sets += [f"benchmarks.{name}.limit={data.limit}" for name, data in cfg.benchmarks.items() if data.limit is not None]
    asked = (*sets, seed, *arguments_of(cfg.evaluate, "evaluate"))
    stages = [
        ("before", "evaluation before", evaluate, [*first, *asked], None),
        ("pretrain", "pretraining", pretrain, [*arguments_of(cfg.pretrain, "pretrain"), *first, seed], None),
        ("pretrained", "evaluation after pretraining", evaluate, [*pretrained, *asked], "pretrain"),
        ("train", "RL", train, [*arguments_of(cfg.train, "train"), *pretrained, *questions, seed], "pretrain"),
        ("trained", "evaluation after RL", evaluate, [*tuned, *asked], "train"),
    ]
    # In full, as a run stores them: the stored ones are compared with these.
    return [
        Stage(name, title, script, tuple(expand(arguments, root / "conf")), folder / name, needs)
        for name, title, script, arguments, needs in stages
    ]


def base_arguments(cfg: PipelineConfig) -> list[str]:
    """How the commands name the model that the pipeline begins with."""
    if cfg.model.name == "folder":
        return folder_arguments(cfg.model.path)
    return [f"model={cfg.model.name}", f"model.path={spelled(cfg.model.path)}"]


def folder_arguments(path: str) -> list[str]:
    """How the commands name a model folder."""
    return ["model=folder", f"model.path={spelled(path)}"]


def questions_file(folder: Path) -> Path:
    """Questions of RL."""
    return folder / "questions" / "train.jsonl"


def heldout_file(folder: Path) -> Path:
    """Questions that RL never sees."""
    return folder / "questions" / "heldout.jsonl"


def arguments_of(settings: dict[str, Any], stage: str) -> list[str]:
    """A stage's settings as arguments: nested keys with dots, null left out, ``more`` as it is.

    Raises:
        UserError: ``more`` is not a list of key=value.
    """
    rest = dict(settings)
    more = rest.pop("more", None) or []
    if not isinstance(more, list) or not all(isinstance(a, str) and "=" in a for a in more):
        raise UserError(f"{stage}.more={more} must be a list of settings, such as {stage}.more='[\"trainer=cpu\"]'")
    return [f"{key}={spelled(value)}" for key, value in flatten(rest).items() if value is not None] + more


def spelled(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(spelled, value))}]"
    if not isinstance(value, str) or PLAIN.fullmatch(value):
        return str(value)
    # A backslash is one of Hydra's own only before a quote, or before the closing one.
    escaped = re.sub(r"(\\+)('|\Z)", r"\1\1\2", value).replace("'", "\\'")
    return f"'{escaped}'"


def check_order(stages: Sequence[Stage]) -> None:
    """What a stage builds on must have ended before the stage began.

    Raises:
        UserError: a finished stage was made from what has been made anew since, or is gone.
    """
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        if stage.needs is None or not stage.finished():
            continue
        needed = by_name[stage.needs]
        began, ended = _time(stage, "started"), _time(needed, "changed") if needed.finished() else None
        if began is None or ended is None or began < ended:
            raise UserError(
                f"{shown(stage.folder)} was not made from {shown(needed.folder)} as it is now: remove the former, "
                "or start anew with another name=..."
            )


def _time(stage: Stage, key: str) -> datetime | None:
    try:
        return datetime.fromisoformat(json.loads((stage.folder / "status.json").read_text())[key])
    except (OSError, ValueError, KeyError):
        return None
