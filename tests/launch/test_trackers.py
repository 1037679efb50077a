"""MLflow, Comet, Trackio and SwanLab without a network: what a run and its resume leave there."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from r1zero.errors import UserError
from r1zero.launch import trackers
from r1zero.launch.trackers import Tracker
from r1zero.train.build import close_loggers

SETTINGS = {"seed": 0, "algo": {"name": "drgrpo", "betas": [0.9, 0.95]}}


def written(kind: str, folder: Path) -> None:
    """Two steps, an end, and a resume that takes two more."""
    made = getattr(trackers, kind)
    if importlib.util.find_spec(made.package) is None:
        pytest.skip(f"{made.package} is not installed: pip install '.[{made.extra}]'")
    for first in (0, 2):
        tracker = made(str(folder), "r1zero", group="mini", tags=("drgrpo", "tiny"))
        tracker.log_hyperparams(SETTINGS)
        for step in (first, first + 1):
            row = {"reward/mean": 0.25 * step, "eval/math/pass@4": 0.5, "length/correct": float("nan")}
            tracker.log_metrics(row, step=step)
        close_loggers([tracker])


def test_mlflow_has_all_steps_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    written("MLflowTracker", tmp_path)
    import mlflow

    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("r1zero").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == tmp_path.name
    assert run.data.tags.keys() >= {"drgrpo", "tiny", "group"}
    assert run.data.params == {"seed": "0", "algo.name": "drgrpo", "algo.betas": "[0.9, 0.95]"}
    history = client.get_metric_history(run.info.run_id, "reward/mean")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert run.data.metrics.keys() == {"reward/mean", "eval/math/pass_at_4"}


def test_comets_second_archive_adds_to_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    written("CometTracker", tmp_path)
    found = []
    for archive in sorted((tmp_path / "comet").glob("*.zip"), key=lambda path: path.stat().st_mtime_ns):
        with zipfile.ZipFile(archive) as content:
            about = json.loads(content.read("experiment.json"))
            found.append((about["offline_id"], about["resume_strategy"], content.read("messages.json").decode()))
    (key, first, steps), (again, second, more) = found
    assert key == again == (tmp_path / "comet_ml_id").read_text()
    assert (first, second) == ("create", "get")
    for text, at in ((steps, 1), (more, 3)):
        assert '"eval/math/pass@4"' in text
        assert f'"step":{at}' in text


def test_trackio_has_all_steps_under_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed: pip install '.[trackio]'")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "store")
    written("TrackioTracker", tmp_path)
    name = (tmp_path / "trackio_id").read_text()
    rows: Any = sqlite_storage.SQLiteStorage.get_logs("r1zero", name)
    assert [(row["step"], row["reward/mean"]) for row in rows] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]


def test_swanlab_keeps_settings_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SWANLAB_API_KEY", "SWANLAB_MODE"):
        monkeypatch.delenv(name, raising=False)
    written("SwanLabTracker", tmp_path)
    runs = sorted((tmp_path / "swanlab").glob("run-*"))
    assert len(runs) == 2, "a run on disk can't be continued: a resume is a second one of the same name"
    for run in runs:
        assert "drgrpo" in (run / "files" / "config.yaml").read_text()
        assert b"pass@4" in next(run.glob("*.swanlab")).read_bytes()


class Recorder(Tracker):
    """A tracker that writes nothing."""

    package = extra = "json"

    def start(self, known: str | None) -> str:
        self.calls: list[Any] = [known]
        return "id7"

    def put(self, figures: dict[str, float], step: int) -> None:
        self.calls.append((step, figures))

    def end(self, failed: bool) -> None:
        self.calls.append(failed)
        raise ConnectionError("no route")


def test_an_id_is_kept_gaps_are_left_out_and_a_lost_server_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Recorder(str(tmp_path), "r1zero")
    tracker = Recorder(str(tmp_path), "r1zero")
    tracker.log_metrics({"a": 1.0, "b": float("nan")}, step=3)
    try:
        raise RuntimeError
    except RuntimeError:
        close_loggers([tracker])
    assert tracker.calls == ["id7", (3, {"a": 1.0}), True]
    assert "json could not be given everything (ConnectionError: no route)" in caplog.text


def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path: Path) -> None:
    missing = type("Missing", (Recorder,), {"package": "no_such_tracker", "extra": "tracker"})
    with pytest.raises(UserError, match=r"no_such_tracker is not installed; pip install '\.\[tracker\]'"):
        missing(str(tmp_path), "r1zero")
