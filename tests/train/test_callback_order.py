"""Callbacks watch: removing or shuffling them changes neither what is learned nor what is written down."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from r1zero import config
from r1zero.batch import RolloutBatch
from r1zero.train import run as run_module
from r1zero.train.checks import check
from run_support import ROOT, SMALL, table
from run_support import completions as responses

ARGUMENTS = [
    *SMALL,
    "steps=3",
    "callbacks=diversity",
    "callbacks.distribution={_target_:r1zero.train.callbacks.distribution.DistributionCallback,positions:2,every:2}",
    "rollout.max_tokens=24",
    "eval.limit=4",
    "data.sampler=curriculum",
    f"algo.advantage={__name__}.by_length",
    "algo.credit=length_aware",
]
NAMES = ("evaluation", "best", "bias", "diversity", "distribution", "interrupt", "metrics", "samples", "progress")
NAMES += ("checkpoint",)

Trained = tuple[Path, dict[str, torch.Tensor]]


def by_length(batch: RolloutBatch) -> torch.Tensor:
    """An advantage that no group of equal rewards sets to 0."""
    centred = batch.lengths - batch.lengths.mean()
    return batch.rewards - batch.rewards.mean() - centred / (centred.abs().max() + 1)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """Trains with the named callbacks in the given order: the run folder, and the weights at its end."""

    def make(names: list[str]) -> Trained:
        folder = tmp_path_factory.mktemp("order") / "run"
        folder.mkdir()
        config.register()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=[f"paths.run={folder}", *ARGUMENTS])
        cfg.callbacks = {name: cfg.callbacks[name] for name in names}
        check(cfg)
        found: dict[str, torch.Tensor] = {}
        summarize = run_module.summarize

        def look(cfg: Any, context: Any, module: Any, trainer: Any) -> dict[str, Any]:
            found.update({name: value.detach().clone() for name, value in module.policy.named_weights()})
            return summarize(cfg, context, module, trainer)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_module, "summarize", look)
            assert run_module.train(cfg, folder) == 0
        return folder, found

    return make


@pytest.fixture(scope="module")
def usual(train: Callable[..., Trained]) -> Trained:
    return train(list(NAMES))


def test_all_callbacks_are_tried() -> None:
    """A callback that is added to the config is shuffled with the others."""
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert set(compose("train", overrides=["callbacks=diversity", "paths.run=run"]).callbacks) == set(NAMES)


@pytest.mark.parametrize("seed", [1, 2])
def test_shuffled_callbacks_write_the_same_run(train: Callable[..., Trained], usual: Trained, seed: int) -> None:
    names = random.Random(seed).sample(NAMES, len(NAMES))
    folder, weights = train(names)
    assert all(torch.equal(usual[1][name], weights[name]) for name in usual[1]), names
    assert table(folder) == table(usual[0]), names
    assert responses(folder).equals(responses(usual[0]))
    for file in ("bias.csv", "policy_best/evaluation.json"):
        assert [p.exists() for p in (folder / file, usual[0] / file)] in ([True, True], [False, False])
    assert (folder / "bias.csv").read_text() == (usual[0] / "bias.csv").read_text()
    kept = [torch.load(f / "checkpoints" / "step_000003.ckpt", weights_only=True) for f in (folder, usual[0])]
    totals = [{k: v for k, v in c["callbacks"]["MetricsCallback"].items() if k != "time"} for c in kept]
    assert totals[0] == totals[1]


def test_without_any_callback_but_metrics_the_same_is_learned(train: Callable[..., Trained], usual: Trained) -> None:
    folder, weights = train(["metrics"])
    assert all(torch.equal(usual[1][name], weights[name]) for name in usual[1])
    alone, watched = table(folder), [row for row in table(usual[0]) if "reward/mean" in row]
    assert len(alone) == 3
    for row, expected in zip(alone, watched, strict=True):
        assert row == {name: expected[name] for name in row}
