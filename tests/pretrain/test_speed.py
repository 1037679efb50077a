"""The peak that the MFU is a share of: measured so that a busy machine does not spoil it, never surpassed unsaid."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from r1zero.lab.benchmark.machine import best_time
from r1zero.pretrain import speed
from r1zero.pretrain.callbacks import MetricsCallback, PretrainContext
from r1zero.pretrain.module import PretrainModule
from r1zero.pretrain.speed import device_peak, measured_peak, too_low

CPU = torch.device("cpu")


class Clock:
    """Time that passes only in ``work``, by given durations; the last one goes on."""

    def __init__(self, *durations: float) -> None:
        self.durations, self.now, self.runs = list(durations), 100.0, 0

    def work(self) -> None:
        self.now += self.durations[min(self.runs, len(self.durations) - 1)]
        self.runs += 1

    def __call__(self) -> float:
        return self.now


def test_the_best_time_by_hand() -> None:
    """Two warm-up runs do not count, however fast; it ends after ``patience`` runs that were not faster."""
    clock = Clock(0.001, 0.001, 0.05, 0.03, 0.04, 0.0299, 0.04)
    assert best_time(clock.work, clock, patience=3) == (pytest.approx(0.0299), 5)
    slow = Clock(5.0)
    assert best_time(slow.work, slow, patience=40, limit=2.0) == (pytest.approx(5.0), 3)
    bounded = Clock(0.5)
    assert best_time(bounded.work, bounded, patience=40, limit=2.0)[1] == 4


def test_a_peak_is_measured_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_peak.cache_clear()
    called: list[int] = []

    def fixed(work: Any) -> tuple[float, int]:
        work()
        called.append(torch.get_num_threads())
        return 0.01, 50

    monkeypatch.setattr(speed, "best_time", fixed)
    before = torch.get_num_threads()
    peak, how = device_peak(CPU, torch.float32)
    assert (peak, how) == device_peak(CPU, torch.float32)
    assert called == [1]
    assert torch.get_num_threads() == before
    assert peak == pytest.approx(before * 2 * 512**3 / 0.01)
    assert how.startswith("measured: best of 50 float32 products of 512 x 512 on one thread, times")
    assert measured_peak(CPU, torch.float32, 3) == (
        pytest.approx(3 * 2 * 512**3 / 0.01),
        "measured: best of 50 float32 products of 512 x 512 on one thread, times 3 threads",
    )
    measured_peak.cache_clear()


def test_an_mfu_over_one_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two devices of 1 GFLOP/s each: 1 GFLOP a step in a second is half of it, 4 GFLOP are twice."""
    module = PretrainModule(torch.nn.Identity(), None, 3)  # type: ignore[arg-type]
    flops = iter([1e9, 4e9, 4e9])
    monkeypatch.setattr(
        module,
        "take_step_figures",
        lambda: {"loss": 1.0, "flops": next(flops), "tokens": 8.0, "targets": 7.0, "grad_norm": 1.0},
    )
    now = iter(range(100))
    monkeypatch.setattr("r1zero.pretrain.callbacks.time.perf_counter", lambda: float(next(now)))
    trainer: Any = SimpleNamespace(
        global_step=1, optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])], callback_metrics={}, loggers=[]
    )
    context = PretrainContext(
        cfg=None, run_dir=tmp_path, is_main=True, steps=3, parts=1, peak=2e9, peak_from="measured", devices=2
    )  # type: ignore[arg-type]
    callback = MetricsCallback(context)
    callback._since = float(next(now))
    shares = []
    for index in range(3):
        callback.on_train_batch_end(trainer, module, None, None, index)
        shares.append(float(trainer.callback_metrics["speed/mfu"]))
        assert len(caplog.messages) == min(index, 1)
    assert shares == [0.5, 2.0, 2.0]
    assert caplog.messages == [too_low(2.0, 1e9, "measured")]
    assert "MFU 200% can't be: the peak of 0.001 TFLOP/s (measured) is too low; give" in caplog.text
    assert too_low(1.0, 1e9, "measured") == ""
