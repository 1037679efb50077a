"""Runs to report on: local run folders, copies that W&B keeps offline, and runs on a W&B server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.errors import UserError, first_line
from r1zero.launch.files import read_json, read_yaml


@dataclass
class Run:
    """One training run: its settings, one row of figures per rollout step, and the bias table where there is one."""

    name: str
    config: dict[str, Any]
    metrics: pd.DataFrame
    bias: pd.DataFrame | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "finished"
    folder: Path | None = None

    @property
    def algo(self) -> str:
        """Name of the algorithm."""
        return str(self.config["algo"]["name"])

    @property
    def model(self) -> str:
        """Name of the base model."""
        return str(self.config["model"]["name"])

    @property
    def template(self) -> str:
        """Name of the template."""
        return str(self.config["template"]["name"])

    @property
    def data(self) -> str:
        """Name of the question set."""
        return str(self.config["data"]["name"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def recipe(self) -> tuple[str, str, str, str]:
        """What seeds are averaged over: (algorithm, model, template, question set)."""
        return self.algo, self.model, self.template, self.data

    def series(self, column: str) -> list[tuple[float, float]]:
        """(rollout step, value) wherever the column has a value."""
        if column not in self.metrics:
            return []
        rows = self.metrics[["step", column]].dropna()
        return list(zip(rows["step"].astype(float), rows[column].astype(float), strict=True))

    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that were evaluated."""
        parts = [c.split("/") for c in self.metrics if c.startswith("eval/") and c.endswith("/accuracy")]
        return [p[1] for p in parts if p[1] != "average"]

    def evaluation(self, metric: str, which: str = "average") -> list[tuple[float, float]]:
        """(rollout step, value) of an evaluation metric on a benchmark, or its average over all benchmarks.

        The average of lengths of right and wrong answers is over the benchmarks that have such answers.
        """
        if which != "average":
            return self.series(f"eval/{which}/{metric}")
        columns = [f"eval/{name}/{metric}" for name in self.benchmarks() if f"eval/{name}/{metric}" in self.metrics]
        if not columns:
            return []
        rows = pd.DataFrame({"step": self.metrics["step"], "value": self.metrics[columns].mean(axis=1)}).dropna()
        return list(zip(rows["step"].astype(float), rows["value"].astype(float), strict=True))


def read_run(folder: Path) -> Run:
    """The run of a local folder.

    Raises:
        UserError: the folder holds no run with figures.
    """
    try:
        config = read_yaml(folder / "config.yaml")
        metrics = pd.read_csv(folder / "metrics.csv")
        bias = pd.read_csv(folder / "bias.csv") if (folder / "bias.csv").is_file() else None
        summary, status = (
            read_json(folder / name) if (folder / name).is_file() else {} for name in ("summary.json", "status.json")
        )
    except (UserError, OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no whole run (config.yaml, metrics.csv and what lies beside): {first_line(error)}"
        ) from error
    return Run(folder.name, config, metrics, bias, summary, status.get("state", "unknown"), folder)


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """Every training run in or below the paths.

    A path inside a W&B folder (``wandb/offline-run-...``, a ``.wandb`` file) stands for the run folder
    around it, whose metrics.csv is the readable copy of the same figures.

    Raises:
        UserError: a path is missing or nothing is found.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        root = around_wandb(path)
        for file in sorted(root.rglob("metrics.csv")):
            if (file.parent / "config.yaml").is_file() and _is_training(file.parent):
                folders.setdefault(file.parent.resolve(), file.parent)
    if not folders:
        raise UserError(f"no training run (metrics.csv with config.yaml) in {', '.join(map(str, paths))}")
    runs = [read_run(folder) for folder in folders.values()]
    return [run for run in runs if len(run.metrics)]


def wandb_runs(path: str, api: Any = None) -> list[Run]:
    """The runs of a W&B project through its public API.

    Args:
        path: "entity/project" or "project".
        api: a ``wandb.Api``; None makes one.

    Raises:
        UserError: the project can't be read, or has no run of this package.
    """
    try:
        if api is None:
            import wandb

            api = wandb.Api()
        found = []
        for run in api.runs(path):
            rows = pd.DataFrame(list(run.scan_history()))
            config = {k: v for k, v in dict(run.config).items() if not k.startswith("_")}
            if "progress/rollout_step" not in rows or "algo" not in config:
                continue
            # The server spells what is no number as text ("NaN"), and has tables beside the figures.
            rows = rows.apply(pd.to_numeric, errors="coerce")
            rows = rows.groupby("progress/rollout_step", as_index=False).first()  # one row per step
            rows.insert(0, "step", rows["progress/rollout_step"].astype(int))
            found.append(Run(run.name, config, rows, state=str(run.state)))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"W&B project {path} can't be read: {first_line(error)}") from error
    if not found:
        raise UserError(f"W&B project {path} has no run of this package")
    return found


def around_wandb(path: Path) -> Path:
    """The run folder around a W&B folder or what lies in it; any other path is itself, whatever it lies below."""
    resolved = path.absolute()
    for parent in (resolved, *resolved.parents):
        if parent.name == "wandb" and (parent.parent / "metrics.csv").is_file():
            return parent.parent
    return path


def _is_training(folder: Path) -> bool:
    with (folder / "metrics.csv").open(errors="replace") as file:
        return "reward/mean" in file.readline()
