"""scripts/pipeline.py as a user runs it, on the embedded model: all five stages, the table, and going on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from r1zero.data.arithmetic import generate
from run_support import ENVIRONMENT, ROOT

SMALL = [
    "model=tiny", "benchmarks=none", "heldout=16", "name=p", "paths.outputs=out",
    "pretrain.steps=2", "pretrain.step_tokens=256", "pretrain.data.row_tokens=128", "pretrain.optim.warmup_steps=1",
    "pretrain.data.sources.qa.path=sums.jsonl", "data.path=sums.jsonl", "train.steps=2", "train.template=question",
    "train.rollout.questions=4", "train.rollout.max_tokens=48", "evaluate.template=question",
    "evaluate.sampling.max_tokens=48", "pretrain.more=['data=qa_text','trainer=cpu','data.heldout_documents=8']",
    "train.more=['experiment=demo','rollout=hf','algo.minibatch_size=32','benchmarks=none']",
    "evaluate.more=['rollout=hf']",
]  # fmt: skip


def pipeline(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "pipeline.py"), *SMALL, *arguments],
        cwd=cwd,
        env=os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    rows = [{"problem": q.text, "answer": q.gold[0]} for q in generate("train", 120, 0, terms=4, digits=1)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("R1ZERO_SOAK"), reason="a minute of eight processes: `make soak` runs it")
def test_all_stages_and_their_table(sums: Path) -> None:
    done = pipeline(sums)
    assert done.returncode == 0, done.stderr
    out = sums / "out" / "p"
    found = json.loads((out / "results.json").read_text())
    assert [(row["set"], row["state"]) for row in found["rows"]] == [
        ("heldout", "before"), ("heldout", "pretrained"), ("heldout", "trained"),
    ]  # fmt: skip
    assert found["rows"][0]["accuracy"]["value"] > 0.5, "the embedded model can do sums, greedily"
    assert [row["gain"] is None for row in found["rows"]] == [True, False, False]
    for row, stage in zip(found["rows"], ("before", "pretrained", "trained"), strict=True):
        own = json.loads((out / stage / "results.json").read_text())["sets"]["heldout"]
        assert (row["accuracy"], row["length"], row["formatted_frac"]) == (
            own["accuracy"], own["length"], own["formatted_frac"],
        )  # fmt: skip
    assert set(found["seconds"]) == {"before", "pretrain", "pretrained", "train", "trained"}
    assert all(took["wall"] > 0 and took["cpu"] > 0 for took in found["seconds"].values())
    table = pd.read_csv(out / "accuracy.csv")
    assert list(table["accuracy"].round(4)) == [round(row["accuracy"]["value"], 4) for row in found["rows"]]
    assert (out / "accuracy.png").stat().st_size > 5000
    assert "after RL" in done.stdout
    assert "time: evaluation before 0:" in done.stdout

    # What was trained is not what was begun with, and the same command has nothing left to do.
    weights = [(out / stage / "policy" / "model.safetensors").read_bytes() for stage in ("pretrain", "train")]
    assert weights[0] != weights[1]
    again = pipeline(sums)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("(finished before)") == 5
    assert json.loads((out / "results.json").read_text()) == found


def test_a_misspelt_setting_and_a_missing_file_in_one_line(sums: Path) -> None:
    """The command that takes the setting names it, before the first stage."""
    done = pipeline(sums, "name=q", "pretrain.data.sources.qa.path=none.jsonl")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: pretraining refuses its settings: ")
    assert "none.jsonl" in done.stderr
    assert "stage 1" not in done.stdout
    done = pipeline(sums, "name=q", "train.stepz=3")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: train.stepz=3: ")
