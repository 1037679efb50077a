"""Whole distributions of sampler and learner, compared on a real engine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from objective_support import algo_config, fit, make_module, random_prompts, random_rollout, weights
from r1zero.batch import PromptBatch
from r1zero.config import ModelConfig
from r1zero.errors import SyncError, UserError
from r1zero.learn.policy import Policy
from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf.engine import HFEngine
from r1zero.rollout.live import LiveEngine
from r1zero.train.callbacks.distribution import DistributionCallback, distances
from tiny_models import make_tiny


def test_distances_by_hand() -> None:
    """p = (1/2, 1/2, 0) against q = (1/4, 1/2, 1/4): the mean |log p/q| over p is log 2 / 2, a quarter has moved."""
    sampler = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]).log()
    learner = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]]).log()
    mean, variation = distances(sampler, learner)
    assert mean.tolist() == pytest.approx([math.log(2) / 2, 0])
    assert variation.tolist() == pytest.approx([0.25, 0])


class Louder(HFEngine):
    """Serves a head that is not the learner's."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        super().load_weights(((n, t * 1.5 if "embed_tokens" in n else t) for n, t in weights), version)


def train(
    folder: Path, engine: type[HFEngine], every: int = 2, environment: str | None = None
) -> tuple[list[dict[str, float]], Any]:
    """Figures of three rollout steps, and the weights after them."""
    policy = Policy.from_folder(folder, ModelConfig(name="tiny", path=str(folder), dtype="float32"))
    context: Any = SimpleNamespace(
        cfg=SimpleNamespace(seed=0, rollout=SimpleNamespace(environment=environment)),
        engine=LiveEngine(lambda: engine(str(folder), dtype="float32", context=64)),
        sampling=Sampling(n=4, max_tokens=8, temperature=0.7, stop_ids=(5,)),
        pending={},
        before_sampling=[],
    )
    DistributionCallback(context, positions=5, every=every)
    module = make_module(policy, algo_config("drgrpo", minibatch_size=16), temperature=0.7)
    seen: list[dict[str, float]] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            for look in context.before_sampling:
                look(pl_module, PromptBatch(batch.step, 0, random_prompts(batch.step, 3)))
            seen.append(dict(context.pending))
            context.pending.clear()

    fit(module, random_rollout, 3, callbacks=[Look()])
    return seen, weights(policy)


def test_whole_distributions_are_compared_where_due(tmp_path: Path) -> None:
    """The policy moves between the comparisons, and training is what it is without them."""
    folder = make_tiny(tmp_path / "tiny")
    seen, moved = train(folder, HFEngine)
    for figures in (seen[0], seen[2]):
        assert 0 < figures["sync/whole_diff_mean"] < 1e-5
        assert 0 < figures["sync/total_variation_max"] < 1e-5
    assert seen[1] == {}
    _, without = train(folder, HFEngine, every=1000)
    assert all(torch.equal(moved[name], without[name]) for name in moved)


def test_another_distribution_ends_the_run_before_an_update(tmp_path: Path) -> None:
    with pytest.raises(SyncError, match=r"whole distributions of sampler and learner differ by .* policy version 0 "):
        train(make_tiny(tmp_path / "tiny"), Louder)


def test_an_environment_gives_no_distributions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rollout\.environment=calculator gives no distributions back"):
        train(make_tiny(tmp_path / "tiny"), HFEngine, environment="calculator")
