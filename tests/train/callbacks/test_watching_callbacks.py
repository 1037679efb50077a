"""Bias and diversity in real training steps on fixed rollouts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from objective_support import algo_config, fit, make_module, random_policy, random_rollout, weights
from r1zero.algo.bias import BiasBins
from r1zero.algo_config import AlgoConfig
from r1zero.batch import RolloutBatch
from r1zero.train.callbacks.bias import BiasCallback
from r1zero.train.callbacks.diversity import DiversityCallback


def context(folder: Path, algo: AlgoConfig, group: int = 4) -> Any:
    rollout = SimpleNamespace(group_size=group, max_tokens=9)
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)))
    return SimpleNamespace(
        cfg=SimpleNamespace(algo=algo, rollout=rollout),
        run_dir=folder,
        is_main=True,
        rank=0,
        world_size=1,
        tokenizer=tokenizer,
    )


def rollouts() -> dict[int, RolloutBatch]:
    return {step: random_rollout(step) for step in range(3)}


def train(algo: AlgoConfig, *callbacks: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = make_module(random_policy(), algo)
    made = rollouts()
    fit(module, made.__getitem__, 3, callbacks=callbacks)
    return weights(module.policy)


def test_bias_csv_and_figures_are_those_of_each_rollout(tmp_path: Path) -> None:
    algo = algo_config("drgrpo", minibatch_size=16)
    seen: dict[int, dict[str, float]] = {}

    class Look(BiasCallback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            seen[batch.step] = dict(batch.rollout.metrics)

    train(algo, Look(context(tmp_path, algo), bins=3))
    table = pd.read_csv(tmp_path / "bias.csv", keep_default_na=False)
    for step, rollout in rollouts().items():
        lengths = torch.tensor([float(len(c.ids)) for c in rollout.completions])
        running = rollout.advantages.abs() * lengths / 9  # Dr. GRPO, nothing left out
        sums = BiasBins(4, 9.0, 9, 3).sums(rollout.rewards, rollout.right, lengths, running)
        assert seen[step] == pytest.approx(sums.metrics(), nan_ok=True)
        assert set(table["algorithm"]) == {"drgrpo"}
        rows = table[table["step"] == step].drop(columns="step").to_dict("records")
        assert len(rows) == len(sums.rows(9))
        for row, expected in zip(rows, sums.rows(9), strict=True):
            assert row["kind"] == expected["kind"]
            assert float(row["grpo"]) == pytest.approx(expected["grpo"])
            assert float(row["running"]) == pytest.approx(expected["running"]) == pytest.approx(expected["drgrpo"])


def test_what_the_loss_leaves_out_has_no_weight(tmp_path: Path) -> None:
    """algo.truncated=exclude: the references count the responses that were cut, the running column does not."""
    algo = algo_config("drgrpo", minibatch_size=16)

    class Excluded(BiasCallback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            for completion, row in zip(batch.rollout.completions, batch.rollout.mask, strict=True):
                row &= not completion.truncated
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    train(algo, Excluded(context(tmp_path, algo), bins=3))
    table = pd.read_csv(tmp_path / "bias.csv")
    for step, rollout in rollouts().items():
        kept = ~torch.tensor([c.truncated for c in rollout.completions])
        weight = rollout.advantages.abs() / 9
        rows = table[(table["step"] == step) & (table["kind"] == "token")]
        for column, counted in (("drgrpo", torch.ones_like(kept)), ("running", kept)):
            assert (rows[column] * rows["count"]).sum() == pytest.approx(float(weight[counted].sum()), rel=1e-5)


def test_diversity_figures(tmp_path: Path) -> None:
    algo = algo_config("drgrpo", minibatch_size=16)
    seen: list[dict[str, float]] = []

    class Look(DiversityCallback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batch.rollout.grades = [SimpleNamespace(extracted=str(i % 4 % 3)) for i in range(16)]
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            seen.append(dict(batch.rollout.metrics))

    train(algo, Look(context(tmp_path, algo), n=2, every=2))
    assert [bool(figures) for figures in seen] == [True, False, True]
    assert set(seen[0]) == {"diversity/distinct_answers", "diversity/distinct_2", "diversity/self_similarity"}
    assert seen[0]["diversity/distinct_answers"] == 3.0  # answers 0, 1, 2, 0 in each group of four
