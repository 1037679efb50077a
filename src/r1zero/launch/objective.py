"""What a search (``hydra/sweeper=tune``) seeks, read from a finished run's folder. Imports nothing heavy."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from r1zero.launch import compat

ACCURACY = "eval/average/accuracy"
"""Column of ``metrics.csv`` that is sought where the setting ``objective`` is null."""

REWARD = "reward/mean"

RESULTS = "optimization_results.yaml"
"""Where the sweeper writes the best trial, in the sweep's folder."""


def searches(hydra: Any) -> bool:
    """Whether Hydra's config has a sweeper that chooses its points one after another."""
    return not compat.is_hydras_sweeper(str(OmegaConf.select(hydra, "sweeper._target_")))


def objective_of(run_dir: Path, column: str | None = None) -> float | None:
    """The last value of a column of ``metrics.csv``.

    Args:
        run_dir: folder of a run that has ended.
        column: a column; None is the last evaluation's average accuracy, and the mean reward of the last five steps
            in a run without evaluations.

    Returns:
        None where there is no such column, or its last value is not finite: the trial has then failed.
    """
    try:
        rows = list(csv.DictReader((run_dir / "metrics.csv").read_text().splitlines()))
    except OSError:
        return None
    values = figures(rows, column or ACCURACY)[-1:] or ([] if column else figures(rows, REWARD)[-5:])
    value = sum(values) / len(values) if values else math.nan
    return value if math.isfinite(value) else None


def figures(rows: list[dict[str, str]], column: str) -> list[float]:
    """The values of a column, without the steps that have none."""
    return [float(row[column]) for row in rows if row.get(column)]


def best_trial(folder: Path) -> str:
    """The best trial in one line; nothing where no search has ended in this folder."""
    file = folder / RESULTS
    if not file.is_file():
        return ""
    found: Any = OmegaConf.to_container(OmegaConf.load(file))
    if "best_params" not in found:
        return f"several objectives: {len(found.get('solutions', []))} trials are best, see {file}"
    settings = " ".join(f"{key}={value}" for key, value in found["best_params"].items())
    return f"best trial: {settings}   objective {found['best_value']:.4g}   ({file})"
