"""Engines that fail are started again, wherever they fail; without a process or a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from r1zero.errors import SyncError, UserError
from r1zero.rollout.live import ENGINE_RESTARTS, LiveEngine

MODULE: Any = SimpleNamespace(
    policy_version=3, make_room=lambda: None, policy=SimpleNamespace(named_weights=lambda: iter(["w"]))
)


class Fake:
    """Fails in one of its calls; the engines of a run share a list of what was asked of them."""

    def __init__(self, calls: list[str], fails: str = "", error: Exception | None = None) -> None:
        self.version: int | None = None
        self.calls, self.fails = calls, fails
        self.error = error or RuntimeError("the engine's core died")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fails:
            raise self.error

    def wake(self) -> None:
        self._note("wake")

    def load_weights(self, weights: Any, version: int) -> None:
        assert list(weights) == ["w"], "each attempt reads the weights anew"
        self._note("load")
        self.version = version

    def sample(self) -> str:
        self._note("sample")
        return "responses"

    def close(self) -> None:
        self._note("close")


def live(engines: list[Fake], ranks: int = 1) -> LiveEngine:
    waiting = iter(engines)
    return LiveEngine(lambda: next(waiting), lambda: ranks)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("fails", ["wake", "load", "sample", "close"])
def test_whatever_it_does_when_it_dies_another_goes_on(fails: str) -> None:
    """Issue 6, item 6: also while it wakes or takes weights, and also where what is left of it can't be closed."""
    calls: list[str] = []
    first = Fake(calls, fails if fails != "close" else "sample")
    made = live([first, Fake(calls)])
    if fails == "close":
        first.close = lambda: first._note("close") or 1 / 0  # type: ignore[method-assign,assignment,func-returns-value]
    assert made.sampled(MODULE, lambda engine: engine.sample()) == "responses"  # type: ignore[attr-defined]
    whole = ["wake", "load", "sample"]
    begun = whole[: whole.index(first.fails) + 1]
    assert calls == [*begun, "close", *whole]
    assert made.now.version == 3


def test_the_start_of_an_engine_is_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would pass for the time of the first evaluation."""
    from r1zero.rollout import live as live_module

    now = 0.0

    class Slow(Fake):
        def __init__(self) -> None:
            nonlocal now
            now += 90
            super().__init__([])

        def wake(self) -> None:
            nonlocal now
            now += 2

    monkeypatch.setattr(live_module.time, "perf_counter", lambda: now)
    made = LiveEngine(Slow)  # type: ignore[arg-type]
    assert made.sync(MODULE) == 2
    assert made.start_seconds == 90


def test_a_sync_alone_is_repeated_too() -> None:
    calls: list[str] = []
    made = live([Fake(calls, "load"), Fake(calls, "wake"), Fake(calls)])
    assert made.sync(MODULE) >= 0
    assert made.now.version == 3
    assert calls == ["wake", "load", "close", "wake", "close", "wake", "load"]


@pytest.mark.parametrize("sampled", [True, False])
def test_the_learner_makes_room_before_an_engine_starts_or_wakes(sampled: bool) -> None:
    """vLLM looks at the free memory when it starts: after a resume the optimizer's states would be in its way."""
    calls: list[str] = []
    module: Any = SimpleNamespace(**vars(MODULE) | {"make_room": lambda: calls.append("room")})
    made = LiveEngine(lambda: calls.append("start") or Fake(calls))  # type: ignore[arg-type,func-returns-value]
    for _ in range(2):
        made.sampled(module, lambda engine: None) if sampled else made.sync(module)
    assert calls == ["room", "start", "wake", "load", "room", "wake"]


def test_the_end_of_patience() -> None:
    """Also where no other engine can help: wrong settings, wrong weights, ranks that would not take part."""
    calls: list[str] = []
    with pytest.raises(RuntimeError, match="died"):
        live([Fake(calls, "load") for _ in range(ENGINE_RESTARTS + 1)]).sync(MODULE)
    assert calls.count("load") == ENGINE_RESTARTS + 1
    for error, ranks in ((UserError("u"), 1), (SyncError("s"), 1), (RuntimeError("r"), 2)):
        calls.clear()
        with pytest.raises(type(error)):
            live([Fake(calls, "load", error)], ranks).sync(MODULE)
        assert calls == ["wake", "load"]
