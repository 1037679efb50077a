"""Run folders for tests of reports, with figures by hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from r1zero.algo.bias import BiasBins

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

SLOW = re.compile(r'"\[(Intervention|Violation)\]')
"""What a browser says by itself where it is slow."""


def make_run(
    root: Path,
    algo: str = "drgrpo",
    seed: int = 0,
    model: str = "tiny",
    template: str = "question",
    data: str = "arithmetic",
    accuracy: tuple[float, float] = (0.5, 0.9),
    wrong: tuple[float, float] = (33.0, 32.0),
    state: str = "finished",
    reward: float = 0.5,
    silent: float = 0.1,
) -> Path:
    """A folder such as a run of six rollout steps leaves."""
    folder = root / f"{algo}_{model}_{template}_{data}_{seed}"
    folder.mkdir(parents=True)
    names = {"algo": algo, "model": model, "template": template, "data": data}
    config: dict[str, Any] = {key: {"name": value} for key, value in names.items()} | {
        "seed": seed,
        "name": folder.name,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = []
    bins = BiasBins(4, 100, 100, bins=4)
    bias_rows: list[dict[str, Any]] = []
    for step in range(6):
        rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0] * 4)
        lengths = torch.linspace(20, 90, 48)
        running = (rewards - 0.5).abs() * lengths / 100
        sums = bins.sums(rewards, rewards > 0.5, lengths, running)
        bias_rows += [{"step": step, "algorithm": algo, **row} for row in sums.rows(100)]
        row = {"step": step, "reward/mean": reward + step / 20, "length/mean": 30.0, "length/incorrect": 33.0 + seed,
               "length/correct": 29.0, "policy/entropy": 0.5, "group/zero_advantage_frac": silent,
               **sums.metrics()}  # fmt: skip
        if step == 0:
            row |= {"eval/arithmetic/accuracy": accuracy[0], "eval/arithmetic/length_incorrect": wrong[0]}
            row |= {"eval/arithmetic/length": 31.0, "eval/arithmetic/length_correct": 29.0}
        rows.append(row)
    rows.append({"step": 6, "eval/arithmetic/accuracy": accuracy[1], "eval/arithmetic/length_incorrect": wrong[1],
                 "eval/arithmetic/length": 30.0, "eval/arithmetic/length_correct": 28.0})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    pd.DataFrame(bias_rows).to_csv(folder / "bias.csv", index=False)
    (folder / "summary.json").write_text(json.dumps({"seconds": 60.0, "tokens": 1000, "versions": {"torch": "2.13"}}))
    (folder / "status.json").write_text(json.dumps({"state": state, "steps": 6}))
    return folder


def seen(page: Path, view: str, tmp_path: Path, unfinished: str | None = None) -> str:
    """The document as a headless browser shows it, scripts done.

    Where it still has the text ``unfinished``, a busy machine had no time for it, and the browser gets more.
    """
    if BROWSER is None:
        warnings.warn("no Chromium here: the page is not opened in a browser", stacklevel=1)
        pytest.skip("no Chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--enable-logging=stderr"]  # fmt: skip
    command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom"]
    for budget in (5000, 60_000, 300_000):
        command_line = [*command, f"--virtual-time-budget={budget}", f"{page.as_uri()}#{view}"]
        done = subprocess.run(command_line, capture_output=True, text=True, timeout=300)
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and not SLOW.search(line)]
        assert not said, said
        document = done.stdout.split("<script", 1)[0]  # without the data and the code
        if document and (unfinished is None or unfinished not in document):
            break
    return document
