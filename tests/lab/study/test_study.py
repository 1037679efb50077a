"""A study: its matrix by hand, what makes none, and one in small through the command that a user types."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from r1zero import config
from r1zero.errors import UserError
from r1zero.lab.study.config import StudyConfig, is_study
from r1zero.lab.study.matrix import Cell, Matrix, read_matrix, write_matrix
from r1zero.lab.study.run import cell_folder, check, plan_jobs
from r1zero.launch.arguments import options
from r1zero.pretrain import config as pretrain_config

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"
LABELS = {"plain": "running text", "none": "pairs"}


def evaluation(folder: Path, value: float, low: float, high: float, name: str = "arithmetic") -> Path:
    folder.mkdir(parents=True)
    sets = {name: {"accuracy": {"value": value, "low": low, "high": high}, "questions": 256}}
    (folder / "results.json").write_text(json.dumps({"sets": sets}))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> dict[tuple[str, str], Path]:
    """Cells of two models and two templates; one evaluation is missing."""
    made = {(s, t): cell_folder(tmp_path, s, t) for s in LABELS for t in ("none", "r1")}
    evaluation(made["plain", "none"], 0.10, 0.07, 0.14)
    evaluation(made["plain", "r1"], 0.12, 0.09, 0.16)
    evaluation(made["none", "none"], 0.80, 0.75, 0.85)
    return made


def test_the_matrix_by_hand(folders: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    matrix = read_matrix(folders, LABELS)
    assert matrix.cells["none", "none"] == Cell(0.8, 0.75, 0.85, 256)
    assert matrix.cells["plain", "none"].text == "10.0 [7.0, 14.0]"
    assert ("none", "r1") not in matrix.cells
    assert (matrix.best("plain"), matrix.apart("plain")) == ("r1", False)  # 9 is not above 14
    assert (matrix.best("none"), matrix.apart("none")) == ("none", False)  # there is nothing to compare it with
    evaluation(folders["none", "r1"], 0.5, 0.44, 0.7499)
    matrix = read_matrix(folders, LABELS)
    assert matrix.apart("none")
    assert Matrix({}, LABELS, ["none"], "").best("none") is None

    lines = write_matrix(matrix, tmp_path, "leak")
    table = lines[0]
    assert [column.header for column in table.columns] == ["pretraining text", "template none", "template r1"]
    assert lines[1] == "  running text: best in template r1 (not clear of the next one)"
    assert lines[2] == "  pairs: best in template none (alone, its interval is above all others)"
    rows = list(csv.DictReader((tmp_path / "matrix.csv").open()))
    assert rows[2] == {"state": "none", "label": "pairs", "template": "none", "accuracy": "0.8", "low": "0.75",
                       "high": "0.85", "questions": "256"}  # fmt: skip
    content = json.loads((tmp_path / "matrix.json").read_text())
    assert content["states"]["none"] == {"label": "pairs", "best_template": "none", "interval_apart": True}
    assert (content["benchmark"], len(content["cells"])) == ("arithmetic", 4)
    assert (tmp_path / "matrix.png").stat().st_size > 2000


def test_a_matrix_has_one_question_set(folders: dict[tuple[str, str], Path]) -> None:
    evaluation(folders["none", "r1"], 0.5, 0.4, 0.6, name="gsm8k")
    with pytest.raises(UserError, match="one question set"):
        read_matrix(folders, LABELS)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"states": {"qa_leek": "x"}}, "states: qa_leek is no option of conf/pretrain/experiment"),
        ({"states": {}}, "states is empty"),
        ({"templates": ["r2"]}, "templates: r2 is no option of conf/template; choose from chat"),
    ],
)
def test_what_makes_no_study_is_one_line(settings: dict, says: str) -> None:
    cfg = StudyConfig(**{"name": "x", "states": {"qa_leak_none": "x"}, "templates": ["r1"]} | settings)
    with pytest.raises(UserError, match=says) as error:
        check(cfg, ROOT)
    assert "\n" not in str(error.value)


def test_every_cell_waits_for_its_own_model_alone(tmp_path: Path) -> None:
    cfg = StudyConfig(name="x", states={"qa_leak_none": "x", "qa_leak_qwen": "y"}, templates=["none", "r1"])
    made = plan_jobs(cfg, tmp_path, ROOT)
    needs = {job.name: job.needs for job in made}
    assert needs == {
        "qa_leak_none": (),
        "qa_leak_qwen": (),
        "qa_leak_none/none": ("qa_leak_none",),
        "qa_leak_none/r1": ("qa_leak_none",),
        "qa_leak_qwen/none": ("qa_leak_qwen",),
        "qa_leak_qwen/r1": ("qa_leak_qwen",),
    }


def test_the_states_of_qa_leak_differ_in_their_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_study(["seed=1", "experiment=qa_leak"], CONF)
    assert not is_study(["experiment=tiny_base"], CONF)
    assert not is_study(["experiment=nothing"], CONF)
    assert not is_study([], CONF)
    monkeypatch.setenv("R1ZERO_CONF", str(CONF))
    config.register()
    pretrain_config.register()
    from r1zero.lab.study import config as study_config

    study_config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        study = compose("study", ["experiment=qa_leak"])
        assert set(study.templates) <= set(options(CONF, "template"))
        states = {name: compose("pretrain", [f"experiment={name}"]) for name in study.states}
    pages = {}
    for name, cfg in states.items():
        assert cfg.name == name
        pages[name] = [page for page, weight in cfg.data.pages.items() if weight] if cfg.data.mix.qa else []
        for key in ("steps", "step_tokens", "init", "optim", "seed"):
            assert cfg[key] == states["qa_leak_plain"][key], key
        assert cfg.data.working == states["qa_leak_plain"].data.working
        assert cfg.data.mix.web
    assert pages == {"qa_leak_plain": [], "qa_leak_none": ["none"], "qa_leak_qwen": ["qwen"]}


def test_one_command_pretrains_evaluates_and_goes_on(tmp_path: Path) -> None:
    """Two models, one template, a few steps; the second call finds everything done."""
    command = [
        sys.executable, str(ROOT / "scripts" / "pretrain.py"), "experiment=qa_leak", "~states.qa_leak_qwen",
        "templates=[none]", "pretraining=['steps=3','optim.warmup_steps=1','data.heldout_documents=8']",
        "evaluation=['benchmarks=arithmetic','rollout=hf','limit=4','sampling.max_tokens=8']",
        f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    env = os.environ | {"COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert first.returncode == 0, first.stderr
    assert "accuracy in % on arithmetic" in first.stdout
    rows = list(csv.DictReader((tmp_path / "qa_leak" / "matrix.csv").open()))
    assert [(row["state"], row["template"], row["questions"]) for row in rows] == [
        ("qa_leak_plain", "none", "4"),
        ("qa_leak_none", "none", "4"),
    ]
    logs = sorted((tmp_path / "qa_leak").rglob("console.log"))
    assert len(logs) == 4
    stamps = [log.stat().st_mtime_ns for log in logs]
    (tmp_path / "qa_leak" / "matrix.csv").unlink()
    second = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert second.returncode == 0, second.stderr
    assert [log.stat().st_mtime_ns for log in logs] == stamps
    assert (tmp_path / "qa_leak" / "matrix.csv").is_file()

    other = [*command[:-1], "workers=0", f"paths.outputs={tmp_path}"]
    refused = subprocess.run(other, capture_output=True, text=True, env=env, timeout=300)
    assert refused.returncode == 1
    assert refused.stderr == "error: workers=0 must be at least 1 and at most 4,096\n"
