"""The benchmark for real, as small as it gets: both sides step by turns, and what they report fits together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from r1zero.lab.benchmark import growth
from r1zero.launch.gpu import has_gpu
from run_support import ENVIRONMENT, ROOT

SMALL = [
    "benchmark=tiny",
    "benchmark.questions=2",
    "benchmark.max_tokens=16",
    "benchmark.trl_batch=16",
    "benchmark.active=0.5",
    "benchmark.fixed=true",
    "benchmark.steps=2",
    "benchmark.warmup=1",
    "benchmark.threads=1",
    "overrides=['rollout=hf']",
]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *SMALL, f"hydra.run.dir={folder}", *arguments],
        cwd=folder.parent,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def measure(folder: Path, *arguments: str) -> dict[str, Any]:
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    assert (folder / "steps.png").stat().st_size > 1000
    return json.loads((folder / "results.json").read_text())


def test_this_project_alone(tmp_path: Path) -> None:
    """Drawn rewards make one of two groups active, every response runs to the limit, parts fill the step."""
    record = measure(tmp_path / "run", "trl=null")
    steps = record["raw"]["steps"]["ours"]
    assert len(steps) == 2
    for step in steps:
        assert step["tokens"] == 2 * 8 * 16
        assert step["inactive"] == 0.5
        assert 0 < sum(step["parts"].values()) <= step["seconds"]
        assert step["parts"]["forward_backward"] > 0
    assert "ratio" not in record
    assert record["limit"]["learn"] > 0
    again = run(tmp_path / "run", "trl=null")
    assert again.returncode == 1
    assert again.stderr.strip().startswith("error: run holds an earlier measurement: remove it")
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == record


@pytest.mark.slow
def test_both_sides(tmp_path: Path) -> None:
    if not (ROOT / ".venv-trl" / "bin" / "python").exists():
        warnings.warn("TRL's environment is missing (scripts/set_up_trl.py); its side is not tested", stacklevel=1)
        pytest.skip("no .venv-trl")
    record = measure(tmp_path / "run")
    ours, theirs = record["raw"]["steps"]["ours"], record["raw"]["steps"]["trl"]
    assert [s["tokens"] for s in ours] == [s["tokens"] for s in theirs] == [256, 256]
    assert record["ratio"]["median"] > 0
    assert record["sides"]["trl"]["parts"]["forward_backward"] > 0


def test_growth_is_fitted_by_hand() -> None:
    """t = 2 n + n^2 / 1000: linear once attention's own term is taken off, which is half of the time at n = 2000."""
    lengths = [250.0, 500.0, 1000.0, 2000.0]
    seconds = [2 * n + n**2 / 1000 for n in lengths]
    rest, share = growth.without_attention(lengths, seconds)
    assert rest == pytest.approx([2 * n for n in lengths])
    assert share == pytest.approx(0.5)
    assert growth.exponent(lengths, rest) == pytest.approx(1.0)
    assert growth.exponent(lengths, seconds) > 1.2
    assert growth.exponent(lengths, [n**1.5 for n in lengths]) == pytest.approx(1.5)
    falling, none = growth.without_attention(lengths, [n**0.9 for n in lengths])
    assert none == 0
    assert falling == pytest.approx([n**0.9 for n in lengths])


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_a_case_for_a_gpu_says_so_without_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "benchmark=qwen1.5b_learner"],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr == "error: benchmark=qwen1.5b_learner is measured on a GPU, and no NVIDIA GPU was found\n"
