"""A ``train.py`` whose training is a stub: what a sweep runs where only the sweep is looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import json, math, os, sys
from pathlib import Path
import hydra
from r1zero.launch import cli
from r1zero.launch.resume import record_settings

@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg):
    return cli.dispatch(cfg, job)

def job(cfg, run_dir):
    record_settings(run_dir, cfg)
    with (run_dir / "calls").open("a") as file:
        file.write(f"{cfg.name} {cfg.group} {cfg.algo.name} {cfg.seed} {cfg.steps}\\n")
    point, above = f"{cfg.algo.name}/{cfg.seed}", float(os.environ.get("BROKEN_ABOVE", "inf"))
    broken = os.environ.get("BROKEN") == point or cfg.optim.lr > above
    state = {"state": "failed" if broken else "finished", "steps": cfg.steps, "pid": os.getpid()}
    if broken:
        state["error"] = "no room left"
    (run_dir / "status.json").write_text(json.dumps(state))
    if not broken:
        accuracy = 1 - abs(math.log10(cfg.optim.lr) + 4)  # best at 1e-4
        (run_dir / "metrics.csv").write_text(f"step,eval/average/accuracy,reward/mean\\n1,{accuracy},0.5\\n")
    return int(broken)

if __name__ == "__main__":
    sys.exit(cli.main(main, Path(__file__).absolute()))
"""


def make_project(folder: Path) -> Path:
    """A folder with the stub and the project's configs."""
    (folder / "train.py").write_text(SCRIPT)
    (folder / "conf").symlink_to(ROOT / "conf")
    return folder


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it; ``BROKEN`` names an algorithm and a seed that fail, ``BROKEN_ABOVE`` a learning rate."""
    command = [sys.executable, "train.py", *arguments]
    env = os.environ | {"COLUMNS": "160"} | environment
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300)
