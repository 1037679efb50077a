"""Composes the configs of evaluate.yaml and analyze.yaml in this process and runs them on small parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from r1zero import config
from r1zero.evaluate import config as evaluate_config
from r1zero.lab.analysis import config as analysis_config

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
TINY = ROOT / "src/r1zero/data/assets/tiny"

SMALL = ("model=tiny", "template=question", "rollout=hf", "rollout.max_num_seqs=64", "sampling.max_tokens=64")
"""The model that comes with the package on transformers' generate: starts at once."""


def composed(root: str, run_dir: Path | str, *overrides: str) -> DictConfig:
    config.register()
    evaluate_config.register()
    analysis_config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(root, [f"paths.run={run_dir}", f"paths.outputs={Path(run_dir).parent}", *overrides])


def evaluated(run_dir: Path, *overrides: str) -> DictConfig:
    """Run scripts/evaluate.py's job in this process."""
    from r1zero.evaluate.checks import check
    from r1zero.evaluate.run import evaluate

    cfg = composed("evaluate", run_dir, *overrides)
    check(cfg)
    evaluate(cfg, run_dir)
    return cfg


def analyzed(run_dir: Path, *overrides: str) -> DictConfig:
    """Run scripts/analyze.py's job in this process."""
    from r1zero.lab.analysis.checks import check
    from r1zero.lab.analysis.run import analyze

    cfg = composed("analyze", run_dir, *overrides)
    check(cfg)
    analyze(cfg, run_dir)
    return cfg


def result(run_dir: Path, name: str = "results.json") -> dict[str, Any]:
    import json

    return json.loads((run_dir / name).read_text())
