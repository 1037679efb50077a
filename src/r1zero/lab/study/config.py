"""Schema of ``conf/study.yaml``; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from r1zero.ranges import ranged


@dataclass
class StudyConfig:
    """Root of ``conf/study.yaml``."""

    name: str = MISSING
    """Folder under outputs/; an existing name continues with what is missing."""
    states: dict[str, str] = field(default_factory=dict)
    """Experiments of pretraining that make the models, each with its label in the matrix."""
    templates: list[str] = field(default_factory=list)
    """Columns of the matrix: templates of conf/template."""
    pretraining: list[str] = field(default_factory=list)
    """Further arguments of every pretraining, as they are typed."""
    evaluation: list[str] = field(default_factory=list)
    """Further arguments of every evaluation, as they are typed; among them one question set."""
    workers: int = ranged(2, at_least=1, at_most=4096)
    """Processes side by side, one thread each."""
    paths: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schema into Hydra's store."""
    ConfigStore.instance().store(name="study_schema", node=StudyConfig)


def is_study(arguments: list[str], conf: Path) -> bool:
    """Whether ``experiment=`` names a study rather than one pretraining: its file has states."""
    name = next((a.partition("=")[2] for a in reversed(arguments) if a.startswith("experiment=")), "")
    file = conf / "pretrain" / "experiment" / f"{name}.yaml"
    return file.is_file() and "states" in (yaml.safe_load(file.read_text()) or {})
