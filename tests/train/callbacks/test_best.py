"""policy_best/ holds the weights of the evaluation with the highest average."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1zero.learn.module import PolicyGradientModule
from r1zero.train.callbacks import best as best_module
from r1zero.train.callbacks.best import BestPolicyCallback


class Run:
    """Evaluations are made by hand; an export writes down the weights of its moment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.context: Any = SimpleNamespace(after_evaluation=[], run_dir=folder, is_main=True)
        self.module = PolicyGradientModule.__new__(PolicyGradientModule)
        self.weights = 0
        self.callback = BestPolicyCallback(self.context)
        self.exports: list[int] = []

        def export(module: Any, context: Any, target: Path, beside: dict[str, str]) -> None:
            target.mkdir(exist_ok=True)
            for name, text in beside.items():
                (target / name).write_text(text)
            self.exports.append(self.weights)

        monkeypatch.setattr(best_module, "export_policy", export)

    def evaluated(self, step: int, accuracy: float) -> None:
        self.weights = step
        for look in self.context.after_evaluation:
            look(self.module, {"step": step, "average": {"accuracy": accuracy}})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_only_an_improvement_is_exported(run):
    for step, accuracy in ((0, 0.2), (10, 0.1), (20, 0.4), (30, 0.4), (40, 0.3)):
        run.evaluated(step, accuracy)
    run.evaluated(50, 0.6)
    assert run.exports == [20, 50]
    assert json.loads((run.folder / "policy_best" / "evaluation.json").read_text())["step"] == 50


def test_the_starting_model_counts_and_is_not_exported(run):
    run.evaluated(0, 0.5)
    run.evaluated(10, 0.4)
    assert run.exports == []
    assert not (run.folder / "policy_best").exists()


def test_a_resumed_run_knows_its_best(run, tmp_path, monkeypatch):
    run.evaluated(0, 0.2)
    run.evaluated(10, 0.5)
    later = Run(tmp_path, monkeypatch)
    later.callback.load_state_dict(run.callback.state_dict())
    later.evaluated(20, 0.4)
    later.evaluated(30, 0.6)
    assert later.exports == [30]
