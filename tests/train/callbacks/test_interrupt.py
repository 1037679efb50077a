"""Signals between and inside rollout steps, without a process of their own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from r1zero.errors import Stopped
from r1zero.train.callbacks import interrupt
from r1zero.train.callbacks.interrupt import InterruptCallback

MODULE: Any = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def callback() -> Iterator[InterruptCallback]:
    context: Any = SimpleNamespace(engine_started=True, is_main=False, interrupted=0)
    made = InterruptCallback(context)
    made.on_train_start(None, MODULE)  # type: ignore[arg-type]
    yield made
    made.on_exception(None, MODULE, KeyboardInterrupt())  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_the_first_signal_stops_the_trainer_after_the_step(callback: InterruptCallback, number: int) -> None:
    trainer: Any = SimpleNamespace(should_stop=False)
    callback.on_train_batch_end(trainer, MODULE, None, None, 0)
    assert trainer.should_stop is False
    signal.raise_signal(number)
    assert trainer.should_stop is False
    callback.on_train_batch_end(trainer, MODULE, None, None, 0)
    assert trainer.should_stop is True
    assert callback.context.interrupted == number


def test_the_second_stops_at_once_with_its_own_number(callback: InterruptCallback) -> None:
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Stopped) as stopped:
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.number == signal.SIGTERM
    assert isinstance(stopped.value, KeyboardInterrupt)


def test_a_launcher_that_repeats_the_signal_asks_once(
    callback: InterruptCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    now = interrupt.time.monotonic()
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now + interrupt.SAME_REQUEST_SECONDS + 1)
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)


def test_before_the_engine_has_started_one_signal_is_enough(callback: InterruptCallback) -> None:
    callback.context.engine_started = False  # type: ignore[misc]
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A5: ``nohup`` means nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        context: Any = SimpleNamespace(engine_started=True, is_main=False, interrupted=0)
        made = InterruptCallback(context)
        made.on_train_start(None, MODULE)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGHUP)
        made.on_train_end(None, MODULE)  # type: ignore[arg-type]
        assert made._received == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    context: Any = SimpleNamespace(engine_started=True, is_main=False, interrupted=0)
    made = InterruptCallback(context)
    made.on_train_start(None, MODULE)  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGTERM) != before
    made.on_train_end(None, MODULE)  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGTERM) == before
