"""Searches with Optuna's sweeper; the training is a stub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException

from r1zero.launch import cli
from r1zero.launch.objective import objective_of
from sweep_stub import make_project, run

ROOT = Path(__file__).resolve().parents[3]
optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs hydra-optuna-sweeper")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def calls(project: Path) -> list[int]:
    return [len(file.read_text().splitlines()) for file in (project / "outputs/demo/tune_lr").glob("*/calls")]


TUNE = ("sweep=tune_lr", "experiment=demo", "hydra.sweeper.n_trials=4")


@optuna
def test_a_search_finds_the_best_trial_and_leaves_finished_ones_alone(project: Path) -> None:
    for _ in range(2):
        done = run(project, *TUNE)
        assert done.returncode == 0, done.stderr
        assert calls(project) == [1] * 4
        objectives = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("trial ")]
        assert len(objectives) == 4
        best = yaml.safe_load((project / "outputs/demo/tune_lr/optimization_results.yaml").read_text())
        assert best["best_value"] == pytest.approx(max(objectives), abs=1e-3)
        assert 1e-5 <= best["best_params"]["optim.lr"] <= 1e-3
        assert f"best trial: optim.lr={best['best_params']['optim.lr']}" in done.stdout


@optuna
def test_a_failing_trial_is_named_and_the_search_goes_on(project: Path) -> None:
    done = run(project, *TUNE, BROKEN_ABOVE="2e-4")
    named = [line for line in done.stderr.splitlines() if line.startswith("sweep point optim.lr-")]
    assert named
    assert all(line.endswith("failed: no room left") for line in named)
    assert 0 < done.stdout.count("trial optim.lr-") == 4 - len(named)
    assert "best trial: optim.lr=" in done.stdout
    assert "Traceback" not in done.stderr


@optuna
def test_a_search_in_which_all_trials_fail_ends_in_one_line(project: Path) -> None:
    done = run(project, *TUNE[:2], "hydra.sweeper.n_trials=1", BROKEN_ABOVE="0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no trial of the search has finished")


@optuna
def test_optunas_default_direction_is_refused(project: Path) -> None:
    done = run(project, "-m", "hydra/sweeper=optuna", "experiment=demo", "optim.lr=interval(1e-5,1e-4)")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: hydra.sweeper.direction=minimize seeks the lowest accuracy")
    assert not list(project.glob("outputs/**/calls"))


@pytest.mark.parametrize(
    ("text", "column", "value"),
    [
        ("step,eval/average/accuracy,reward/mean,time/step\n1,0.25,0.1,1\n2,,0.3,1\n", None, 0.25),
        ("step,reward/mean,time/step\n0,0.1,1\n1,0.3,1\n", None, 0.2),
        ("step,reward/mean,time/step,loss\n0,0.1,1,4\n1,0.3,1,2\n", "loss", 2.0),
        ("step,loss\n0,nan\n", "loss", None),
        ("step,loss\n0,1\n", "los", None),
    ],
)
def test_the_objective_is_the_last_value_of_its_column(
    tmp_path: Path, text: str, column: str | None, value: float | None
) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    found = objective_of(tmp_path, column)
    assert found is None if value is None else found == pytest.approx(value)


def test_a_run_without_figures_has_no_objective(tmp_path: Path) -> None:
    assert objective_of(tmp_path) is None


def test_a_missing_plugin_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = HydraException("In 'hydra/sweeper/tune': Could not find 'hydra/sweeper/optuna'")
    line = cli.explain(error, ["sweep=tune_lr"])
    assert line == "hydra-optuna-sweeper is not installed, which this choice needs: pip install hydra-optuna-sweeper"


def test_a_torchvision_that_does_not_fit_is_one_line_that_says_what_to_do() -> None:
    """vLLM brings it; from another index than torch's it makes every model fail to import."""
    line = cli.explain(RuntimeError("operator torchvision::nms does not exist"), ["experiment=demo"])
    assert line.endswith("pip uninstall torchvision torchaudio torchcodec")
