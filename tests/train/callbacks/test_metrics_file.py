"""metrics.csv: one row a step, whatever interrupts it (trap 51)."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from r1zero.train.callbacks.metrics import MetricsCallback, MetricsFile
from r1zero.train.callbacks.samples import CompletionsCallback


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.csv"


def test_rows_are_on_disk_at_once_and_new_columns_may_come_late(path: Path) -> None:
    file = MetricsFile(path)
    file.append({"step": 0, "a": 1.5})
    assert rows(path) == [{"step": "0", "a": "1.5"}]
    file.append({"step": 1, "b": 2.0})
    file.append({"step": 2, "a": 3.0, "b": 4.0})
    assert rows(path) == [
        {"step": "0", "a": "1.5", "b": ""},
        {"step": "1", "a": "", "b": "2.0"},
        {"step": "2", "a": "3.0", "b": "4.0"},
    ]
    file.append({"step": 3, "a": float("nan"), "b": 5.0})  # nothing was counted
    assert rows(path)[-1] == {"step": "3", "a": "", "b": "5.0"}


def test_a_resumed_run_drops_what_it_takes_again(path: Path) -> None:
    file = MetricsFile(path)
    for step in range(5):
        file.append({"step": step, "a": step * 1.0})
    again = MetricsFile(path, first_step=3)
    assert [row["step"] for row in rows(path)] == ["0", "1", "2"]
    again.append({"step": 3, "a": 30.0})
    assert [row["a"] for row in rows(path)] == ["0.0", "1.0", "2.0", "30.0"]


def test_a_new_run_begins_with_an_empty_table(path: Path) -> None:
    MetricsFile(path).append({"step": 0, "a": 1.0})
    MetricsFile(path)
    assert rows(path) == []


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_row_that_was_cut_short_is_left_out(path: Path, cut: int) -> None:
    """ "12,0.5" cut to "1" would pass for step 1."""
    file = MetricsFile(path)
    file.append({"step": 1, "a": 0.25})
    file.append({"step": 12, "a": 0.5})
    path.write_bytes(path.read_bytes()[:-cut])
    kept = MetricsFile(path, first_step=20)
    # Without its line end alone the row is whole, and left out all the same: nothing tells so.
    assert [row["step"] for row in rows(path)] == (["1", "12"] if cut == 1 else ["1"])
    kept.append({"step": 13, "a": 1.0})
    assert rows(path)[-1] == {"step": "13", "a": "1.0"}


def test_a_write_that_fails_leaves_the_old_table(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MetricsFile(path)
    file.append({"step": 0, "a": 1.0})
    before = path.read_bytes()
    (path.with_suffix(".tmp")).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        file.append({"step": 1, "a": 2.0, "new": 3.0})
    assert path.read_bytes() == before


class Broken:
    """A logger whose service has died."""

    calls = 0

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.calls += 1
        raise ConnectionResetError("Connection lost")


def test_a_logger_that_fails_is_left_out_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    broken, seen = Broken(), []
    fine = SimpleNamespace(log_metrics=lambda metrics, step: seen.append(step))
    trainer: Any = SimpleNamespace(loggers=[broken, fine], callback_metrics={})
    callback = MetricsCallback(SimpleNamespace(pending={}, after_evaluation=[]))  # type: ignore[arg-type]
    for step in range(3):
        callback._emit(trainer, {"a": 1.0}, step)
    assert seen == [0, 1, 2]
    assert broken.calls == 1
    assert (
        caplog.text.count("Broken failed (ConnectionResetError: Connection lost): training continues without it") == 1
    )


def test_a_full_disk_is_not_taken_for_a_logger_that_fails() -> None:
    def full(metrics: dict[str, float], step: int) -> None:
        raise OSError(28, "No space left on device")

    trainer: Any = SimpleNamespace(loggers=[SimpleNamespace(log_metrics=full)], callback_metrics={})
    with pytest.raises(OSError, match="No space left"):
        MetricsCallback(SimpleNamespace(pending={}, after_evaluation=[]))._emit(trainer, {"a": 1.0}, 0)  # type: ignore[arg-type]


def test_tables_that_wandb_does_not_take_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    callback = CompletionsCallback(SimpleNamespace(), wandb_every=1)  # type: ignore[arg-type]
    logger: Any = SimpleNamespace(log_table=lambda *what, **more: Broken().log_metrics({}, 0))
    callback._send(logger, pd.DataFrame(), 0)
    assert callback.wandb_every == 0
    assert "W&B took no table of responses (ConnectionResetError: Connection lost)" in caplog.text
