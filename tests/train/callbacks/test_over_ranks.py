"""Figures over two ranks are means over responses, and both ranks come to one decision (issue 6, item 1)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch

from r1zero.algo.stats import ReduceFn
from r1zero.algo_config import AlgoConfig
from r1zero.batch import Completion, Prompt, Question, RolloutBatch
from r1zero.config import RewardConfig
from r1zero.reward.grader import Grader
from r1zero.reward.health import RewardError
from r1zero.reward.outcome import Outcome, Status
from r1zero.rollout import collect as collect_module
from r1zero.rollout.collect import Collector
from r1zero.rollout.engine import Sampling
from r1zero.rollout.live import LiveEngine
from r1zero.rollout.scoring import evaluate

T = TypeVar("T")


def over_two_ranks(work: Callable[[int, ReduceFn], T]) -> list[T | Exception]:
    """Run the same work as rank 0 and rank 1, in threads that meet at every reduction; what each gave or raised."""
    meeting = threading.Barrier(2, timeout=120)
    slots: list[torch.Tensor] = [torch.empty(0)] * 2
    found: list[Any] = [None, None]

    def run(rank: int) -> None:
        def reduce(values: torch.Tensor, how: str) -> torch.Tensor:
            slots[rank] = values.clone()
            meeting.wait()
            assert slots[0].shape == slots[1].shape, "ranks reduce different lists of figures"
            both = torch.stack(slots)
            meeting.wait()
            return both.sum(0) if how == "sum" else both.max(0).values

        try:
            found[rank] = work(rank, reduce)
        except Exception as error:
            found[rank] = error
            meeting.abort() if isinstance(error, AssertionError) else None

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class Engine:
    """Answers question n with n tokens, and rightly where n is even."""

    def generate(self, prompts: list[list[int]], sampling: Any, seed: int) -> list[list[Completion]]:
        return [[Completion([1] * ids[0], f"\\boxed{{{ids[0] % 2}}}", "stop", None)] for ids in prompts]


@pytest.fixture(scope="module")
def grader() -> Any:
    with Grader(RewardConfig(name="test")) as grader:
        yield grader


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_uneven_last_shard_weighs_what_it_holds(grader: Grader, count: int) -> None:
    """5 questions are 3 and 2, 1 question is 1 and none: the figures are those of one rank over all."""
    prompts = [Prompt(Question(str(n), ("0",)), "", [n]) for n in range(1, count + 1)]
    engine: Any = Engine()
    sampling: Any = SimpleNamespace(n=1)
    alone, _ = evaluate(engine, grader, {"b": prompts}, sampling, 0)
    found = over_two_ranks(
        lambda rank, reduce: evaluate(
            engine, grader, {"b": prompts}, sampling, 0, rank=rank, world_size=2, reduce_fn=reduce
        )
    )
    for result in found:
        assert not isinstance(result, Exception), result
        for name in ("accuracy", "length", "truncated_frac", "length_correct", "length_incorrect"):
            assert result[0]["b"][name] == pytest.approx(alone["b"][name], nan_ok=True), name
    assert alone["b"]["length"] == pytest.approx((count + 1) / 2)


def metrics_of(grades: list[list[Outcome]], lengths: list[list[int]], monkeypatch: Any) -> list[Any]:
    """The rollout metrics of two ranks with two responses each, in one group."""
    local = threading.local()
    monkeypatch.setattr(collect_module, "reduce_over_ranks", lambda values, how, device: local.reduce(values, how))
    module: Any = SimpleNamespace(device=torch.device("cpu"), policy_version=0)
    cfg: Any = SimpleNamespace(algo=AlgoConfig(name="drgrpo"), data=SimpleNamespace(sources={}))
    with Grader(RewardConfig(name="test")) as grader:
        collector = Collector(cfg, LiveEngine(lambda: 1 / 0), grader, Sampling(), None)  # type: ignore[arg-type,return-value]

        def work(rank: int, reduce: ReduceFn) -> dict[str, float]:
            local.reduce = reduce
            completions = [Completion([1] * n, "", "stop", None) for n in lengths[rank]]
            rewards = torch.tensor([grade.reward for grade in grades[rank]])
            right, mask = torch.tensor([g.right for g in grades[rank]]), [c.sampled() for c in completions]
            batch = RolloutBatch(completions, 2, 0, rewards, right, mask, rewards - rewards.mean(), grades=grades[rank])
            return collector._figures(module, batch)

        return over_two_ranks(work)


def outcome(right: bool, status: Status | None = None) -> Outcome:
    found = status or (Status.right if right else Status.wrong)
    return Outcome(found, float(right), detail="boom" if status else "")


def test_rollout_figures_are_means_over_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 has one right response of 10 tokens, rank 1 two of 40 and 100: their mean length is 50, not 40."""
    grades = [[outcome(True), outcome(False)], [outcome(True), outcome(True)]]
    for metrics in metrics_of(grades, [[10, 30], [40, 100]], monkeypatch):
        assert not isinstance(metrics, Exception), metrics
        assert metrics["length/correct"] == pytest.approx(50.0)
        assert metrics["length/incorrect"] == pytest.approx(30.0)
        assert metrics["length/mean"] == pytest.approx(45.0)
        assert metrics["reward/mean"] == pytest.approx(0.75)
        assert metrics["reward/std"] == pytest.approx(0.1875**0.5)
        assert metrics["tokens"] == 180.0


def test_all_ranks_stop_when_the_verifier_of_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all verdicts are crashes, all of them on rank 1: rank 0, where all is well, stops too."""
    grades = [[outcome(True), outcome(False)], [outcome(False, Status.crash), outcome(False, Status.crash)]]
    first, second = metrics_of(grades, [[10, 30], [40, 100]], monkeypatch)
    assert isinstance(first, RewardError)
    assert isinstance(second, RewardError)
    assert "failed on 0 of 2 answers (0%), on 50% over all ranks" in str(first)
    assert "failed on 2 of 2 answers (100%), on 50% over all ranks; the first: crash, boom" in str(second)
